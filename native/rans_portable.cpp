// Plain C++: what every other instruction set must agree with, and what runs where there is none.
#include "rans.h"

namespace cachegen {
namespace {

template <int Lanes>
Status read_states(const DecodeStream& stream, uint32_t* states) {
  if (stream.words_end - stream.words < 2 * Lanes) return Status::short_stream;
  for (int lane = 0; lane < Lanes; lane++) {
    states[lane] = stream.words[2 * lane] | uint32_t(stream.words[2 * lane + 1]) << 16;
    if (states[lane] < kLowestState) return Status::low_state;
  }
  return Status::ok;
}

template <int Lanes>
Status decode_one(const Shape& shape, const uint32_t* entries, const DecodeStream& stream) {
  uint32_t states[Lanes];
  const Status start = read_states<Lanes>(stream, states);
  if (start != Status::ok) return start;
  const uint16_t* word = stream.words + 2 * Lanes;
  for (size_t row = 0; row < shape.rows; row++) {
    uint8_t* symbols = stream.symbols + row * shape.stride;
    for (size_t column = 0; column < shape.groups * Lanes; column += Lanes) {
      for (int lane = 0; lane < Lanes; lane++) {
        uint32_t x = states[lane];
        const uint32_t entry = entries[stream.bases[column + lane] + (x & kSlotMask)];
        symbols[column + lane] = uint8_t(entry);
        x = (entry >> kEntryFrequencyShift) * (x >> kProbabilityBits) +
            ((entry >> kEntryBiasShift) & kSlotMask);
        const bool empty = x < kLowestState;
        states[lane] = empty ? x << 16 | *word : x;
        word += empty;
      }
      if (word > stream.words_end) return Status::out_of_words;
    }
  }
  for (int lane = 0; lane < Lanes; lane++) {
    if (states[lane] != kLowestState) return Status::bad_end;
  }
  return word == stream.words_end ? Status::ok : Status::bad_end;
}

template <int Lanes>
Status decode(const Shape& shape, const uint32_t* entries, const DecodeStream* streams, int count) {
  for (int i = 0; i < count; i++) {
    const Status status = decode_one<Lanes>(shape, entries, streams[i]);
    if (status != Status::ok) return status;
  }
  return Status::ok;
}

template <int Lanes>
bool encode_one(const Shape& shape, const uint32_t* entries, EncodeStream& stream) {
  uint32_t states[Lanes];
  for (int lane = 0; lane < Lanes; lane++) states[lane] = kLowestState;
  uint16_t* word = stream.words_end;
  for (size_t row = shape.rows; row-- > 0;) {
    const uint8_t* symbols = stream.symbols + row * shape.stride;
    for (size_t column = shape.groups * Lanes; column-- > 0;) {
      uint32_t& x = states[column % Lanes];
      const uint32_t entry = entries[stream.bases[column] + symbols[column]];
      const uint32_t frequency = entry >> 16;
      if (frequency == 0) return false;
      if (x >= frequency << kRenormaliseBits) {
        *--word = uint16_t(x);
        x >>= 16;
      }
      x = (x / frequency << kProbabilityBits) + x % frequency + (entry & kEntryStartMask);
    }
  }
  for (int lane = Lanes; lane-- > 0;) {
    *--word = uint16_t(states[lane] >> 16);
    *--word = uint16_t(states[lane]);
  }
  stream.words = word;
  return true;
}

template <int Lanes>
bool encode(const Shape& shape, const uint32_t* entries, EncodeStream* streams, int count) {
  for (int i = 0; i < count; i++) {
    if (!encode_one<Lanes>(shape, entries, streams[i])) return false;
  }
  return true;
}

}  // namespace

const Kernel kPortable = {
    "portable", {decode<8>, decode<16>, decode<32>}, {encode<8>, encode<16>, encode<32>}};

}  // namespace cachegen

// AVX-512 (F, BW, DQ, VL, VBMI2): 16 lanes a vector; a group of 8 lanes leaves half of it idle.
#include <immintrin.h>

#include "lockstep.h"
#include "rans.h"

namespace cachegen {
namespace {

template <int Lanes>
constexpr int kVectors = Lanes == 32 ? 2 : 1;
template <int Lanes>
constexpr __mmask16 kActive = Lanes == 8 ? 0x00ff : 0xffff;

constexpr int kWidth = kMaxInFlight;

inline __m512i splat(uint32_t value) { return _mm512_set1_epi32(int(value)); }

template <int Lanes>
__m512i load_bases(const uint32_t* bases) {
  return _mm512_maskz_loadu_epi32(kActive<Lanes>, bases);
}

// Zeroing the target first spares the gather a wait for the register's previous value.
template <int Lanes>
__m512i gather(const uint32_t* entries, __m512i index) {
  return _mm512_mask_i32gather_epi32(_mm512_setzero_si512(), kActive<Lanes>, index, entries, 4);
}

template <int Lanes>
class Decoding {
 public:
  static constexpr int kLanes = Lanes;

  Status open(const DecodeStream& stream) {
    if (stream.words_end - stream.words < 2 * Lanes) return Status::short_stream;
    uint32_t empty = 0;
    repeat<kVectors<Lanes>>([&](auto v) {
      states_[v] = _mm512_maskz_loadu_epi32(kActive<Lanes>, stream.words + 32 * v);
      empty |= empty_lanes(states_[v]);
    });
    if (empty) return Status::low_state;
    word_ = stream.words + 2 * Lanes;
    words_end_ = stream.words_end;
    bases_ = stream.bases;
    symbols_ = stream.symbols;
    return Status::ok;
  }

  // One group; false if it took more words than there are.
  [[gnu::always_inline]] bool step(const uint32_t* entries, size_t offset, size_t column) {
    uint32_t empty = 0;
    repeat<kVectors<Lanes>>([&](auto v) __attribute__((always_inline)) {
      const __m512i bases = load_bases<Lanes>(bases_ + column + 16 * v);
      const __m512i slots = _mm512_and_si512(states_[v], splat(kSlotMask));
      const __m512i entry = gather<Lanes>(entries, _mm512_or_si512(slots, bases));
      _mm_mask_storeu_epi8(symbols_ + offset + 16 * v, kActive<Lanes>, _mm512_cvtepi32_epi8(entry));
      const __m512i frequency = _mm512_srli_epi32(entry, kEntryFrequencyShift);
      const __m512i bias =
          _mm512_and_si512(_mm512_srli_epi32(entry, kEntryBiasShift), splat(kSlotMask));
      const __m512i high = _mm512_srli_epi32(states_[v], kProbabilityBits);
      states_[v] = _mm512_add_epi32(_mm512_mullo_epi32(frequency, high), bias);
      empty |= uint32_t(empty_lanes(states_[v])) << 16 * v;
    });
    refill(empty);
    return word_ <= words_end_;
  }

  Status close() const {
    uint32_t moved = 0;
    repeat<kVectors<Lanes>>([&](auto v) {
      moved |= _mm512_mask_cmpneq_epu32_mask(kActive<Lanes>, states_[v], splat(kLowestState));
    });
    return moved == 0 && word_ == words_end_ ? Status::ok : Status::bad_end;
  }

 private:
  [[gnu::always_inline]] static __mmask16 empty_lanes(__m512i states) {
    return _mm512_mask_cmplt_epu32_mask(kActive<Lanes>, states, splat(kLowestState));
  }

  // Every empty lane takes a word, in lane order.
  [[gnu::always_inline]] void refill(uint32_t empty) {
    const __m512i words = _mm512_maskz_expand_epi16(empty, _mm512_loadu_si512(word_));
    repeat<kVectors<Lanes>>([&](auto v) __attribute__((always_inline)) {
      const __m256i half = _mm512_extracti64x4_epi64(words, v);
      const __m512i shifted = _mm512_slli_epi32(states_[v], 16);
      states_[v] = _mm512_mask_or_epi32(states_[v], __mmask16(empty >> 16 * v), shifted,
                                        _mm512_cvtepu16_epi32(half));
    });
    word_ += _mm_popcnt_u32(empty);
  }

  __m512i states_[kVectors<Lanes>];
  const uint16_t* word_;
  const uint16_t* words_end_;
  const uint32_t* bases_;
  uint8_t* symbols_;
};

// A state below 2^20 * frequency after coding. The quotient is below 2^20, so that a
// single-precision estimate half a unit low is right or one too small; the remainder tells which.
[[gnu::always_inline]] inline __m512i code(__m512i x, __m512i frequency, __m512i start) {
  const __m512 divisor = _mm512_cvtepi32_ps(frequency);
  const __m512 guess = _mm512_rcp14_ps(divisor);
  const __m512 error = _mm512_fnmadd_ps(divisor, guess, _mm512_set1_ps(2.0f));
  const __m512 inverse = _mm512_mul_ps(guess, error);
  const __m512 estimate = _mm512_fmsub_ps(_mm512_cvtepu32_ps(x), inverse, _mm512_set1_ps(0.5f));
  const __m512i quotient = _mm512_cvttps_epi32(estimate);
  const __m512i remainder = _mm512_sub_epi32(x, _mm512_mullo_epi32(quotient, frequency));
  const __m512i coded = _mm512_add_epi32(_mm512_slli_epi32(quotient, kProbabilityBits),
                                         _mm512_add_epi32(remainder, start));
  const __mmask16 one_short = _mm512_cmpge_epu32_mask(remainder, frequency);
  const __m512i correction = _mm512_sub_epi32(splat(kProbabilityScale), frequency);
  return _mm512_mask_add_epi32(coded, one_short, coded, correction);
}

template <int Lanes>
class Encoding {
 public:
  static constexpr int kLanes = Lanes;

  void open(const EncodeStream& stream) {
    repeat<kVectors<Lanes>>([&](auto v) { states_[v] = splat(kLowestState); });
    least_ = splat(1);
    word_ = stream.words_end;
    bases_ = stream.bases;
    symbols_ = stream.symbols;
  }

  [[gnu::always_inline]] void step(const uint32_t* entries, size_t offset, size_t column) {
    __m512i entry[kVectors<Lanes>];
    uint32_t full = 0;
    repeat<kVectors<Lanes>>([&](auto v) __attribute__((always_inline)) {
      const __m128i symbols = _mm_maskz_loadu_epi8(kActive<Lanes>, symbols_ + offset + 16 * v);
      const __m512i bases = load_bases<Lanes>(bases_ + column + 16 * v);
      entry[v] = gather<Lanes>(entries, _mm512_or_si512(_mm512_cvtepu8_epi32(symbols), bases));
      const __m512i frequency = _mm512_srli_epi32(entry[v], 16);
      least_ = _mm512_mask_min_epu32(least_, kActive<Lanes>, least_, frequency);
      const __m512i limit = _mm512_slli_epi32(frequency, kRenormaliseBits);
      full |= uint32_t(_mm512_mask_cmpge_epu32_mask(kActive<Lanes>, states_[v], limit)) << 16 * v;
    });
    shed(full);
    repeat<kVectors<Lanes>>([&](auto v) __attribute__((always_inline)) {
      const __m512i start = _mm512_and_si512(entry[v], splat(kEntryStartMask));
      states_[v] = code(states_[v], _mm512_srli_epi32(entry[v], 16), start);
    });
  }

  bool close(EncodeStream& stream) {
    word_ -= 2 * Lanes;
    repeat<kVectors<Lanes>>(
        [&](auto v) { _mm512_mask_storeu_epi32(word_ + 32 * v, kActive<Lanes>, states_[v]); });
    stream.words = word_;
    return _mm512_test_epi32_mask(least_, least_) == 0xffff;
  }

 private:
  // The low words of the full lanes go below the position, in lane order.
  [[gnu::always_inline]] void shed(uint32_t full) {
    __m512i low = _mm512_castsi256_si512(_mm512_cvtepi32_epi16(states_[0]));
    if constexpr (Lanes == 32) {
      low = _mm512_inserti64x4(low, _mm512_cvtepi32_epi16(states_[1]), 1);
    }
    const unsigned count = _mm_popcnt_u32(full);
    word_ -= count;
    _mm512_mask_storeu_epi16(word_, _bzhi_u32(0xffffffffu, count),
                             _mm512_maskz_compress_epi16(full, low));
    repeat<kVectors<Lanes>>([&](auto v) __attribute__((always_inline)) {
      states_[v] = _mm512_mask_srli_epi32(states_[v], __mmask16(full >> 16 * v), states_[v], 16);
    });
  }

  __m512i states_[kVectors<Lanes>];
  __m512i least_;  // the smallest frequency met, at most 1
  uint16_t* word_;
  const uint32_t* bases_;
  const uint8_t* symbols_;
};

template <int Lanes>
constexpr DecodeFunction kDecode = decode_streams<Decoding<Lanes>, kWidth>;
template <int Lanes>
constexpr EncodeFunction kEncode = encode_streams<Encoding<Lanes>, kWidth>;

}  // namespace

const Kernel kAvx512 = {
    "avx512", {kDecode<8>, kDecode<16>, kDecode<32>}, {kEncode<8>, kEncode<16>, kEncode<32>}};

}  // namespace cachegen

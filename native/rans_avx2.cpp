// AVX2: 8 lanes a vector. A table of shuffles spreads (or packs) the words of the lanes chosen by
// an 8-bit mask, in place of AVX-512's expand and compress.
#include <immintrin.h>

#include <array>

#include "lockstep.h"
#include "rans.h"

namespace cachegen {
namespace {

template <int Lanes>
constexpr int kVectors = Lanes / 8;

// Sixteen registers hold the states of eight vectors and little else.
template <int Lanes>
constexpr int kWidth = Lanes == 32 ? 2 : kMaxInFlight;

using Shuffles = std::array<std::array<uint8_t, 16>, 256>;

// For byte shuffles of eight words: chosen lane number n takes word n.
constexpr Shuffles make_expand() {
  Shuffles table{};
  for (unsigned mask = 0; mask < 256; mask++) {
    unsigned word = 0;
    for (unsigned lane = 0; lane < 8; lane++) {
      const bool chosen = mask >> lane & 1;
      table[mask][2 * lane] = uint8_t(chosen ? 2 * word : 0x80);
      table[mask][2 * lane + 1] = uint8_t(chosen ? 2 * word + 1 : 0x80);
      word += chosen;
    }
  }
  return table;
}

// The chosen lanes' words, in lane order, at the top of the eight.
constexpr Shuffles make_compress() {
  Shuffles table{};
  for (unsigned mask = 0; mask < 256; mask++) {
    unsigned place = 8;
    for (unsigned lane = 8; lane-- > 0;) {
      if (!(mask >> lane & 1)) continue;
      place--;
      table[mask][2 * place] = uint8_t(2 * lane);
      table[mask][2 * place + 1] = uint8_t(2 * lane + 1);
    }
    while (place-- > 0) table[mask][2 * place] = table[mask][2 * place + 1] = 0x80;
  }
  return table;
}

alignas(64) constexpr Shuffles kExpand = make_expand();
alignas(64) constexpr Shuffles kCompress = make_compress();

inline __m128i shuffle_of(const Shuffles& shuffles, unsigned mask) {
  return _mm_load_si128(reinterpret_cast<const __m128i*>(shuffles[mask].data()));
}

inline __m256i splat(uint32_t value) { return _mm256_set1_epi32(int(value)); }

inline __m256i load8(const void* eight_dwords) {
  return _mm256_loadu_si256(static_cast<const __m256i*>(eight_dwords));
}

inline unsigned sign_mask(__m256i lanes) {
  return unsigned(_mm256_movemask_ps(_mm256_castsi256_ps(lanes)));
}

inline __m256i gather(const uint32_t* entries, __m256i index) {
  return _mm256_i32gather_epi32(reinterpret_cast<const int*>(entries), index, 4);
}

// All ones where x < 2^16.
inline __m256i is_empty(__m256i x) {
  return _mm256_cmpeq_epi32(_mm256_srli_epi32(x, 16), _mm256_setzero_si256());
}

// The lowest byte of each lane.
inline void store_bytes(uint8_t* to, __m256i lanes) {
  const __m256i pick = _mm256_set1_epi32(0x0c080400);
  const __m256i in_halves = _mm256_shuffle_epi8(lanes, pick);
  const __m128i both = _mm_unpacklo_epi32(_mm256_castsi256_si128(in_halves),
                                          _mm256_extracti128_si256(in_halves, 1));
  _mm_storel_epi64(reinterpret_cast<__m128i*>(to), both);
}

template <int Lanes>
class Decoding {
 public:
  static constexpr int kLanes = Lanes;

  Status open(const DecodeStream& stream) {
    if (stream.words_end - stream.words < 2 * Lanes) return Status::short_stream;
    unsigned empty = 0;
    repeat<kVectors<Lanes>>([&](auto v) {
      states_[v] = load8(stream.words + 16 * v);
      empty |= sign_mask(is_empty(states_[v]));
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
    repeat<kVectors<Lanes>>([&](auto v) __attribute__((always_inline)) {
      const __m256i slots = _mm256_and_si256(states_[v], splat(kSlotMask));
      const __m256i index = _mm256_or_si256(slots, load8(bases_ + column + 8 * v));
      const __m256i entry = gather(entries, index);
      store_bytes(symbols_ + offset + 8 * v, entry);
      const __m256i frequency = _mm256_srli_epi32(entry, kEntryFrequencyShift);
      const __m256i bias =
          _mm256_and_si256(_mm256_srli_epi32(entry, kEntryBiasShift), splat(kSlotMask));
      const __m256i high = _mm256_srli_epi32(states_[v], kProbabilityBits);
      states_[v] = refilled(_mm256_add_epi32(_mm256_mullo_epi32(frequency, high), bias));
    });
    return word_ <= words_end_;
  }

  Status close() const {
    unsigned same = 0xff;
    repeat<kVectors<Lanes>>([&](auto v) {
      same &= sign_mask(_mm256_cmpeq_epi32(states_[v], splat(kLowestState)));
    });
    return same == 0xff && word_ == words_end_ ? Status::ok : Status::bad_end;
  }

 private:
  // Every empty lane takes a word, in lane order.
  [[gnu::always_inline]] __m256i refilled(__m256i x) {
    const __m256i empty = is_empty(x);
    const unsigned mask = sign_mask(empty);
    const __m128i words = _mm_loadu_si128(reinterpret_cast<const __m128i*>(word_));
    word_ += _mm_popcnt_u32(mask);
    const __m128i spread = _mm_shuffle_epi8(words, shuffle_of(kExpand, mask));
    const __m256i filled = _mm256_or_si256(_mm256_slli_epi32(x, 16), _mm256_cvtepu16_epi32(spread));
    return _mm256_blendv_epi8(x, filled, empty);
  }

  __m256i states_[kVectors<Lanes>];
  const uint16_t* word_;
  const uint16_t* words_end_;
  const uint32_t* bases_;
  uint8_t* symbols_;
};

// x as a float, rounded once: AVX2 converts signed numbers only.
inline __m256 to_float(__m256i x) {
  const __m256 high = _mm256_cvtepi32_ps(_mm256_srli_epi32(x, 16));
  const __m256 low = _mm256_cvtepi32_ps(_mm256_and_si256(x, splat(0xffff)));
  return _mm256_fmadd_ps(high, _mm256_set1_ps(65536.0f), low);
}

// 1 / x to about 22 bits.
inline __m256 reciprocal(__m256 x) {
  const __m256 guess = _mm256_rcp_ps(x);
  return _mm256_mul_ps(guess, _mm256_fnmadd_ps(x, guess, _mm256_set1_ps(2.0f)));
}

// A state after coding. x / frequency is below 2^20, so a single-precision estimate half a unit low
// is right or one too small; the remainder tells which.
inline __m256i code(__m256i x, __m256i frequency, __m256i start) {
  const __m256 inverse = reciprocal(_mm256_cvtepi32_ps(frequency));
  const __m256 estimate = _mm256_fmsub_ps(to_float(x), inverse, _mm256_set1_ps(0.5f));
  const __m256i quotient = _mm256_cvttps_epi32(estimate);
  const __m256i remainder = _mm256_sub_epi32(x, _mm256_mullo_epi32(quotient, frequency));
  const __m256i coded = _mm256_add_epi32(_mm256_slli_epi32(quotient, kProbabilityBits),
                                         _mm256_add_epi32(remainder, start));
  const __m256i exact = _mm256_cmpgt_epi32(frequency, remainder);
  const __m256i carry = _mm256_sub_epi32(splat(kProbabilityScale), frequency);
  return _mm256_add_epi32(coded, _mm256_andnot_si256(exact, carry));
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
    repeat<kVectors<Lanes>>([&](auto backwards) __attribute__((always_inline)) {
      constexpr int v = kVectors<Lanes> - 1 - backwards;
      const auto* symbols = reinterpret_cast<const __m128i*>(symbols_ + offset + 8 * v);
      const __m256i bases = load8(bases_ + column + 8 * v);
      const __m256i index = _mm256_or_si256(_mm256_cvtepu8_epi32(_mm_loadl_epi64(symbols)), bases);
      const __m256i entry = gather(entries, index);
      const __m256i frequency = _mm256_srli_epi32(entry, 16);
      least_ = _mm256_min_epu32(least_, frequency);
      const __m256i x = shed(states_[v], frequency);
      states_[v] = code(x, frequency, _mm256_and_si256(entry, splat(kEntryStartMask)));
    });
  }

  bool close(EncodeStream& stream) {
    word_ -= 2 * Lanes;
    repeat<kVectors<Lanes>>([&](auto v) {
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(word_ + 16 * v), states_[v]);
    });
    stream.words = word_;
    return sign_mask(_mm256_cmpeq_epi32(least_, _mm256_setzero_si256())) == 0;
  }

 private:
  // The low words of the full lanes go below the position, in lane order.
  [[gnu::always_inline]] __m256i shed(__m256i x, __m256i frequency) {
    const __m256i limit = _mm256_slli_epi32(frequency, kRenormaliseBits);
    const __m256i full = _mm256_cmpeq_epi32(_mm256_max_epu32(x, limit), x);
    const unsigned mask = sign_mask(full);
    const __m256i low = _mm256_and_si256(x, splat(0xffff));
    const __m128i words =
        _mm_packus_epi32(_mm256_castsi256_si128(low), _mm256_extracti128_si256(low, 1));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(word_ - 8),
                     _mm_shuffle_epi8(words, shuffle_of(kCompress, mask)));
    word_ -= _mm_popcnt_u32(mask);
    return _mm256_blendv_epi8(x, _mm256_srli_epi32(x, 16), full);
  }

  __m256i states_[kVectors<Lanes>];
  __m256i least_;  // the smallest frequency met, at most 1
  uint16_t* word_;
  const uint32_t* bases_;
  const uint8_t* symbols_;
};

template <int Lanes>
constexpr DecodeFunction kDecode = decode_streams<Decoding<Lanes>, kWidth<Lanes>>;
template <int Lanes>
constexpr EncodeFunction kEncode = encode_streams<Encoding<Lanes>, kWidth<Lanes>>;

}  // namespace

const Kernel kAvx2 = {
    "avx2", {kDecode<8>, kDecode<16>, kDecode<32>}, {kEncode<8>, kEncode<16>, kEncode<32>}};

}  // namespace cachegen

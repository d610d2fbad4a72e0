// AVX-512 with VNNI: 32 products a multiply-add, 64 of bytes.
#include <immintrin.h>

#include "synthesis_vectors.h"

namespace cachegen {
namespace {

struct Avx512 {
  static constexpr int kLanes = 16;
  static constexpr int kRows = 12;
  static constexpr bool kBytes = true;

  static Vector<int32_t, 16> dot(Vector<int32_t, 16> sum, Vector<int32_t, 16> a,
                                 Vector<int32_t, 16> b) {
    return Vector<int32_t, 16>(_mm512_dpwssd_epi32(__m512i(sum), __m512i(a), __m512i(b)));
  }

  // The bytes of `b` are unsigned, those of `a` are not.
  static Vector<int32_t, 16> dot_bytes(Vector<int32_t, 16> sum, Vector<int32_t, 16> a,
                                       Vector<int32_t, 16> b) {
    return Vector<int32_t, 16>(_mm512_dpbusd_epi32(__m512i(sum), __m512i(b), __m512i(a)));
  }
};

}  // namespace

const SynthesisKernel kSynthesisAvx512 = kSynthesis<Avx512>;

}  // namespace cachegen

// AVX-512 with VNNI: 32 products a multiply-add.
#include <immintrin.h>

#include "synthesis_vectors.h"

namespace cachegen {
namespace {

struct Avx512 {
  static constexpr int kLanes = 16;
  static constexpr int kRows = 12;

  static Vector<int32_t, 16> dot(Vector<int32_t, 16> sum, Vector<int32_t, 16> a,
                                 Vector<int32_t, 16> b) {
    return Vector<int32_t, 16>(_mm512_dpwssd_epi32(__m512i(sum), __m512i(a), __m512i(b)));
  }
};

}  // namespace

const SynthesisKernel kSynthesisAvx512 = kSynthesis<Avx512>;

}  // namespace cachegen

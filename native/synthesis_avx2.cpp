// AVX2: 16 products a multiply-add.
#include <immintrin.h>

#include "synthesis_vectors.h"

namespace cachegen {
namespace {

struct Avx2 {
  static constexpr int kLanes = 8;
  static constexpr int kRows = 4;
  static constexpr bool kBytes = false;

  static Vector<int32_t, 8> dot(Vector<int32_t, 8> sum, Vector<int32_t, 8> a,
                                Vector<int32_t, 8> b) {
    const __m256i products = _mm256_madd_epi16(__m256i(a), __m256i(b));
    return Vector<int32_t, 8>(_mm256_add_epi32(__m256i(sum), products));
  }
};

}  // namespace

const SynthesisKernel kSynthesisAvx2 = kSynthesis<Avx2>;

}  // namespace cachegen

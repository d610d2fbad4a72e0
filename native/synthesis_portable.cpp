// Plain C++, for machines without an instruction set of their own here.
#include "synthesis_vectors.h"

namespace cachegen {
namespace {

constexpr int kLanes = 4;
constexpr int kRows = 2;
constexpr int kWidth = 16;

// Unsigned, since sums wrap.
inline uint32_t product(int16_t a, int16_t b) { return uint32_t(int32_t(a) * int32_t(b)); }

void multiply_tile(const Factors& factors, int32_t* sums, size_t stride) {
  const Duo *rows = factors.rows, *panel = factors.panel;
  uint32_t tile[kRows][kWidth] = {};
  for (size_t k = 0; k < factors.depth; k++, rows += kRows, panel += kWidth) {
    for (int row = 0; row < kRows; row++) {
      for (int column = 0; column < kWidth; column++) {
        tile[row][column] += product(rows[row].first, panel[column].first) +
                             product(rows[row].second, panel[column].second);
      }
    }
  }
  for (int row = 0; row < kRows; row++) {
    for (uint32_t& sum : tile[row]) sum *= factors.multipliers[row];
    std::memcpy(sums + row * stride, tile[row], sizeof tile[row]);
  }
}

}  // namespace

const SynthesisKernel kSynthesisPortable = {
    kRows,
    kWidth,
    nullptr,
    multiply_tile,
    add_rows<kLanes>,
    {finish<kLanes, ToFloat32>, finish<kLanes, ToBfloat16>, finish<kLanes, ToFloat16>}};

}  // namespace cachegen

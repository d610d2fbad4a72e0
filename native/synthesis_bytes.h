// The tail of a basis, whose entries are few bits wide, and the coefficients that go with it, as
// bytes: multiply-add instructions take twice as many of them as of 16-bit values.
//
//     coefficient = digits in base 256, each -128 to 127          basis entry = (byte - 128) << shift
//     sum of products = (sum of digits x bytes - 128 x sum of coefficients) << shift
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "synthesis_kernel.h"
#include "synthesis_packing.h"

namespace cachegen {

// The values of the rows of a matrix from column `first` on, tile by tile as digits, the highest
// first, each (depth in quads, rows of a tile). Tiles of small values have one digit, no more than
// three; depths are as in PackedRows.
class PackedDigits {
 public:
  struct Tile {
    size_t first;  // of its quads
    size_t depth;  // in quads
    size_t digits;
  };

  PackedDigits(const int16_t* matrix, size_t stride, size_t first,
               const std::vector<size_t>& depths, size_t tile);

  const Tile& tile(size_t row) const { return tiles_[row / tile_]; }
  const Quad* quads(size_t row) const { return quads_.data() + tile(row).first; }
  // 128 times the sum of each row's values, modulo 2^32, for all rows of the tiles.
  const uint32_t* offsets(size_t row) const { return offsets_.data() + row; }

 private:
  size_t tile_;
  std::vector<Tile> tiles_;
  std::vector<Quad> quads_;
  std::vector<uint32_t> offsets_;
};

// Of each of the given columns, a multiple of 16, the least shift that makes bytes of the basis rows `first` to
// `depth`. Throws std::invalid_argument where there is none.
void find_shifts(const int16_t* basis, size_t first, size_t depth, size_t stride,
                 const std::vector<size_t>& columns, std::vector<uint32_t>& shifts);

// As pack_panels: the rows `first` to `depth` of a basis, shifted, as bytes of a kernel that takes
// them.
void pack_bytes(const int16_t* basis, size_t first, size_t depth, size_t stride,
                const std::vector<size_t>& columns, const std::vector<uint32_t>& shifts,
                const SynthesisKernel& kernel, Aligned<Bytes>& panels);

}  // namespace cachegen

// Matrices laid out as the tiles of a synthesis kernel read them.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "synthesis_kernel.h"

namespace cachegen {

inline size_t parts(size_t total, size_t each) { return total / each + (total % each != 0); }

inline size_t round_up(size_t value, size_t multiple) { return parts(value, multiple) * multiple; }

// Memory that starts at a cache line, as vectors like it best; resizing forgets what was in it.
template <typename T>
class Aligned {
 public:
  void resize(size_t count) {
    const size_t lines = parts(count, kPanelAlignment / sizeof(T));
    if (lines > size_) lines_ = std::make_unique_for_overwrite<CacheLine[]>(lines);
    size_ = std::max(size_, lines);
  }
  T* data() { return reinterpret_cast<T*>(lines_.get()); }
  const T* data() const { return reinterpret_cast<const T*>(lines_.get()); }

 private:
  struct alignas(kPanelAlignment) CacheLine {
    T values[kPanelAlignment / sizeof(T)];
  };
  std::unique_ptr<CacheLine[]> lines_;
  size_t size_ = 0;
};

// The leading values of the rows of a matrix, tile by tile as (depth in duos, rows of a tile). A
// tile is as deep as the deepest of its rows, and zeros end the others; the last tile repeats the
// last row.
class PackedRows {
 public:
  struct Tile {
    size_t first;  // of its duos
    size_t depth;  // in duos
  };

  // Row r of the matrix (count, stride) gives its first depths[r] values.
  PackedRows(const int16_t* matrix, size_t stride, const std::vector<size_t>& depths, size_t tile);

  size_t count() const { return count_; }
  size_t depth() const { return depth_; }  // of the deepest row, in values
  // Of the tile that `row` is in.
  size_t depth(size_t row) const { return tiles_[row / tile_].depth; }
  const Duo* duos(size_t row) const { return duos_.data() + tiles_[row / tile_].first; }

 private:
  size_t count_;
  size_t depth_;
  size_t tile_;
  std::vector<Tile> tiles_;
  Aligned<Duo> duos_;
};

constexpr size_t kNoColumn = SIZE_MAX;

// Panels of a basis (depth, stride), one after the other, each of `width` of the given columns;
// zeros stand for kNoColumn. As many columns as whole panels take.
void pack_panels(const int16_t* basis, size_t depth, size_t stride,
                 const std::vector<size_t>& columns, size_t width, Aligned<Duo>& panels);

}  // namespace cachegen

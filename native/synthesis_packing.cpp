#include "synthesis_packing.h"

#include <algorithm>
#include <cstring>

namespace cachegen {
namespace {

// Rows of a basis are pages apart: no processor fetches the next ones unasked.
constexpr size_t kAhead = 16;

Duo duo(const int16_t* row, const int16_t* next, size_t column) {
  if (column == kNoColumn) return {0, 0};
  return {row[column], next ? next[column] : int16_t(0)};
}

// Columns side by side are packed many at a time.
bool side_by_side(const size_t* columns, size_t width) {
  bool straight = columns[0] != kNoColumn;
  for (size_t i = 1; i < width; i++) straight = straight && columns[i] == columns[0] + i;
  return straight;
}

void pack_panel(const int16_t* basis, size_t depth, size_t stride, const size_t* columns,
                size_t width, Duo* panel) {
  const bool straight = side_by_side(columns, width);
  for (size_t k = 0; k < depth; k += 2, panel += width) {
    const int16_t* row = basis + k * stride;
    const int16_t* next = k + 1 < depth ? row + stride : nullptr;
    if (straight && k + kAhead + 1 < depth) {
      __builtin_prefetch(row + kAhead * stride + columns[0]);
      __builtin_prefetch(row + (kAhead + 1) * stride + columns[0]);
    }
    if (straight && next) {
      const int16_t *first = row + columns[0], *second = next + columns[0];
      for (size_t i = 0; i < width; i++) panel[i] = {first[i], second[i]};
    } else {
      for (size_t i = 0; i < width; i++) panel[i] = duo(row, next, columns[i]);
    }
  }
}

struct Row {
  const int16_t* values;
  size_t depth;

  int16_t operator[](size_t k) const { return k < depth ? values[k] : int16_t(0); }
};

size_t deepest(const std::vector<Row>& rows) {
  return std::ranges::max(rows, {}, &Row::depth).depth;
}

// Two duos of every row at a time while no row ends, then what is left.
void pack_tile(const std::vector<Row>& rows, Duo* to) {
  const size_t tile = rows.size();
  const size_t depth = deepest(rows), shared = std::ranges::min(rows, {}, &Row::depth).depth;
  size_t k = 0;
  for (; k + 4 <= shared; k += 4, to += 2 * tile) {
    for (size_t i = 0; i < tile; i++) {
      Duo two[2];
      std::memcpy(two, rows[i].values + k, sizeof two);
      to[i] = two[0];
      to[tile + i] = two[1];
    }
  }
  for (; k < depth; k += 2) {
    for (const Row& row : rows) *to++ = {row[k], row[k + 1]};
  }
}

}  // namespace

PackedRows::PackedRows(const int16_t* matrix, size_t stride, const std::vector<size_t>& depths,
                       size_t tile)
    : count_(depths.size()), depth_(0), tile_(tile) {
  size_t size = 0;
  for (size_t first = 0; first < count_; first += tile) {
    const auto begin = depths.begin() + first;
    const size_t depth = *std::max_element(begin, begin + std::min(tile, count_ - first));
    tiles_.push_back({size, parts(depth, 2)});
    size += tile * tiles_.back().depth;
    depth_ = std::max(depth_, depth);
  }
  duos_.resize(size);
  std::vector<Row> rows(tile);
  for (size_t first = 0; first < count_; first += tile) {
    for (size_t i = 0; i < tile; i++) {
      const size_t row = std::min(first + i, count_ - 1);
      rows[i] = {matrix + row * stride, depths[row]};
    }
    pack_tile(rows, duos_.data() + tiles_[first / tile].first);
  }
}

void pack_panels(const int16_t* basis, size_t depth, size_t stride,
                 const std::vector<size_t>& columns, size_t width, Aligned<Duo>& panels) {
  const size_t panel_size = parts(depth, 2) * width;
  panels.resize(columns.size() / width * panel_size);
  Duo* panel = panels.data();
  for (size_t i = 0; i < columns.size(); i += width, panel += panel_size) {
    pack_panel(basis, depth, stride, columns.data() + i, width, panel);
  }
}

}  // namespace cachegen

#include "synthesis_packing.h"

#include <cstring>

namespace cachegen {
namespace {

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
    if (straight && next) {
      const int16_t *first = row + columns[0], *second = next + columns[0];
      for (size_t i = 0; i < width; i++) panel[i] = {first[i], second[i]};
    } else {
      for (size_t i = 0; i < width; i++) panel[i] = duo(row, next, columns[i]);
    }
  }
}

// Two duos of every row at a time, then what is left.
void pack_tile(const std::vector<const int16_t*>& rows, size_t depth, Duo* to) {
  const size_t tile = rows.size();
  size_t k = 0;
  for (; k + 4 <= depth; k += 4, to += 2 * tile) {
    for (size_t i = 0; i < tile; i++) {
      Duo two[2];
      std::memcpy(two, rows[i] + k, sizeof two);
      to[i] = two[0];
      to[tile + i] = two[1];
    }
  }
  for (; k < depth; k += 2) {
    for (const int16_t* row : rows) *to++ = {row[k], k + 1 < depth ? row[k + 1] : int16_t(0)};
  }
}

}  // namespace

PackedRows::PackedRows(const int16_t* matrix, size_t count, size_t depth, size_t tile)
    : count_(count), depth_(parts(depth, 2)) {
  duos_.resize(round_up(count, tile) * depth_);
  std::vector<const int16_t*> rows(tile);
  for (size_t first = 0; first < count; first += tile) {
    for (size_t i = 0; i < tile; i++) rows[i] = matrix + std::min(first + i, count - 1) * depth;
    pack_tile(rows, depth, duos_.data() + first * depth_);
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

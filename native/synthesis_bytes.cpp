#include "synthesis_bytes.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <type_traits>

namespace cachegen {
namespace {

constexpr int kLargestByte = 127;
constexpr uint32_t kMostShift = 8;
// Rows of a basis are pages apart: no processor fetches the next ones unasked.
constexpr size_t kAhead = 16;

struct Row {
  const int16_t* values;
  size_t depth;
};

// -128 to 127, with what is left of the value in units of 256.
int8_t take_digit(int32_t& value) {
  const int8_t digit = int8_t(value);
  value = (value - digit) >> 8;
  return digit;
}

size_t digits_of(const Row& row) {
  int16_t low = 0, high = 0;
  for (size_t k = 0; k < row.depth; k++) {
    low = std::min(low, row.values[k]);
    high = std::max(high, row.values[k]);
  }
  size_t most = 1;
  for (int32_t value : {int32_t(low), int32_t(high)}) {
    size_t count = 0;
    for (; value || !count; count++) take_digit(value);
    most = std::max(most, count);
  }
  return most;
}

uint32_t offset_of(const Row& row) {
  uint32_t sum = 0;
  for (size_t k = 0; k < row.depth; k++) sum += uint32_t(row.values[k]);
  return 128 * sum;
}

// A row's place among the quads of its tile; quads of a row are `tile` apart, digits `plane`.
void pack_row(const Row& row, size_t digits, size_t tile, size_t plane, Quad* to) {
  for (size_t digit = digits; digit-- > 0; to += plane) {
    for (size_t k = 0; k < row.depth; k++) {
      int32_t value = row.values[k];
      for (size_t lower = 0; lower < digit; lower++) take_digit(value);
      to[k / 4 * tile].values[k % 4] = take_digit(value);
    }
  }
}

// One digit; the low bytes of four values at a time.
void pack_small_row(const Row& row, size_t tile, Quad* to) {
  size_t k = 0;
  for (; k + 4 <= row.depth; k += 4, to += tile) {
    uint64_t four;
    std::memcpy(&four, row.values + k, sizeof four);
    four &= 0x00ff00ff00ff00ff;
    four |= four >> 8;
    const uint32_t quad = uint32_t(four & 0xffff) | uint32_t(four >> 16 & 0xffff0000);
    std::memcpy(to, &quad, sizeof quad);
  }
  for (; k < row.depth; k++) to->values[k % 4] = int8_t(row.values[k]);
}

bool side_by_side(const size_t* columns, size_t count) {
  bool straight = columns[0] != kNoColumn;
  for (size_t i = 1; i < count; i++) straight = straight && columns[i] == columns[0] + i;
  return straight;
}

// Zeros stand for what is not there.
void gather(const int16_t* row, const size_t* columns, size_t count, int16_t* to) {
  for (size_t i = 0; i < count; i++) {
    to[i] = row && columns[i] != kNoColumn ? row[columns[i]] : int16_t(0);
  }
}

typedef int16_t Eight __attribute__((vector_size(16)));

// Of columns of a basis, as many as stay in registers: the least, the largest, all bits.
template <size_t Eights>
struct Extremes {
  Extremes(const int16_t* basis, size_t first, size_t depth, size_t stride,
           const size_t* columns) {
    int16_t gathered[8 * Eights];
    const bool straight = side_by_side(columns, 8 * Eights);
    for (size_t k = first; k < depth; k++) {
      const int16_t* row = basis + k * stride;
      if (straight && k + kAhead < depth) __builtin_prefetch(row + kAhead * stride + columns[0]);
      if (!straight) gather(row, columns, 8 * Eights, gathered);
      const int16_t* values = straight ? row + columns[0] : gathered;
      for (size_t i = 0; i < Eights; i++) {
        Eight own;
        std::memcpy(&own, values + 8 * i, sizeof own);
        low[i] = own < low[i] ? own : low[i];
        high[i] = own > high[i] ? own : high[i];
        bits[i] |= own;
      }
    }
  }

  Eight low[Eights] = {};
  Eight high[Eights] = {};
  Eight bits[Eights] = {};
};

}  // namespace

PackedDigits::PackedDigits(const int16_t* matrix, size_t stride, size_t first,
                           const std::vector<size_t>& depths, size_t tile)
    : tile_(tile), offsets_(round_up(depths.size(), tile)) {
  std::vector<Row> rows;
  for (size_t row = 0; row < offsets_.size(); row++) {
    const size_t own = std::min(row, depths.size() - 1);
    const size_t depth = depths[own] > first ? depths[own] - first : 0;
    rows.push_back({depth ? matrix + own * stride + first : nullptr, depth});
    offsets_[row] = offset_of(rows.back());
  }
  size_t size = 0;
  for (size_t row = 0; row < rows.size(); row += tile) {
    size_t depth = 0, digits = 1;
    for (size_t i = row; i < row + tile; i++) {
      depth = std::max(depth, parts(rows[i].depth, 4));
      digits = std::max(digits, digits_of(rows[i]));
    }
    tiles_.push_back({size, depth, digits});
    size += digits * depth * tile;
  }
  quads_.resize(size);
  for (size_t row = 0; row < rows.size(); row++) {
    const Tile& own = tiles_[row / tile];
    Quad* to = quads_.data() + own.first + row % tile;
    if (own.digits == 1) {
      pack_small_row(rows[row], tile, to);
    } else {
      pack_row(rows[row], own.digits, tile, own.depth * tile, to);
    }
  }
}

void find_shifts(const int16_t* basis, size_t first, size_t depth, size_t stride,
                 const std::vector<size_t>& columns, std::vector<uint32_t>& shifts) {
  const size_t count = columns.size();
  std::vector<int16_t> low(count), high(count), bits(count);
  size_t start = 0;
  const auto look = [&](auto eights) {
    for (; start + 8 * eights <= count; start += 8 * eights) {
      const Extremes<eights> found(basis, first, depth, stride, columns.data() + start);
      std::memcpy(low.data() + start, found.low, sizeof found.low);
      std::memcpy(high.data() + start, found.high, sizeof found.high);
      std::memcpy(bits.data() + start, found.bits, sizeof found.bits);
    }
  };
  look(std::integral_constant<size_t, 4>());
  look(std::integral_constant<size_t, 2>());
  shifts.assign(count, 0);
  for (size_t i = 0; i < count; i++) {
    const int largest = std::max(-int(low[i]), int(high[i]));
    uint32_t& shift = shifts[i];
    while (shift < kMostShift && largest > kLargestByte << shift) shift++;
    if (largest > kLargestByte << shift || (bits[i] & ((1 << shift) - 1))) {
      throw std::invalid_argument("the tail of the basis is not of 8 bits");
    }
  }
}

void pack_bytes(const int16_t* basis, size_t first, size_t depth, size_t stride,
                const std::vector<size_t>& columns, const std::vector<uint32_t>& shifts,
                const SynthesisKernel& kernel, Aligned<Bytes>& panels) {
  const size_t width = kernel.width;
  panels.resize(columns.size() * parts(depth - first, 4));
  std::vector<int16_t> gathered(4 * width);
  Bytes* to = panels.data();
  for (size_t start = 0; start < columns.size(); start += width) {
    const size_t* own = columns.data() + start;
    const bool straight = side_by_side(own, width);
    for (size_t k = first; k < depth; k += 4, to += width) {
      const int16_t* rows[4];
      for (size_t i = 0; i < 4; i++) {
        const int16_t* row = k + i < depth ? basis + (k + i) * stride : nullptr;
        rows[i] = gathered.data() + i * width;
        if (straight && row) {
          rows[i] = row + own[0];
        } else {
          gather(row, own, width, gathered.data() + i * width);
        }
      }
      kernel.pack_bytes(rows, shifts.data() + start, to);
    }
  }
}

}  // namespace cachegen

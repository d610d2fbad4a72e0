#include "synthesis.h"

#include <algorithm>
#include <stdexcept>

#include "parallel.h"

namespace cachegen {
namespace {

constexpr size_t kNoColumn = SIZE_MAX;

void require(bool condition, const char* message) {
  if (!condition) throw std::invalid_argument(message);
}

size_t parts(size_t total, size_t each) { return total / each + (total % each != 0); }

size_t round_up(size_t value, size_t multiple) { return parts(value, multiple) * multiple; }

void check_turn(const Synthesis& s, const Plane& plane) {
  if (!plane.turn) return;
  require(*plane.turn < s.turns.size(), "a plane names a rotation that is not there");
  require(s.turns[*plane.turn].pairs <= plane.dim / 2, "a rotation has more pairs than a head");
}

void check(const Synthesis& s) {
  size_t columns_left = s.columns;
  for (const Plane& plane : s.planes) {
    require(plane.heads >= 1 && plane.dim >= 1, "a plane is empty");
    require(plane.heads <= columns_left / plane.dim, "the planes have more columns than the basis");
    const size_t width = plane.heads * plane.dim;
    columns_left -= width;
    require(plane.offset <= s.out_size && s.num_tokens <= (s.out_size - plane.offset) / width,
            "a plane ends after `out`");
    check_turn(s, plane);
  }
  require(columns_left == 0, "the planes have fewer columns than the basis");
  require(s.rows <= s.num_tokens && s.first_token <= s.num_tokens - s.rows,
          "the rows end after the last token");
  for (const Turn& turn : s.turns) require(turn.rows == s.rows, "a rotation has other rows");
}

struct alignas(kPanelAlignment) CacheLine {
  Duo duos[kPanelAlignment / sizeof(Duo)];
};

// Duos that start at a cache line, as multiply-adds like them best.
class Duos {
 public:
  explicit Duos(size_t count) : lines_(parts(count, kPanelAlignment / sizeof(Duo))) {}
  Duo* data() { return reinterpret_cast<Duo*>(lines_.data()); }
  const Duo* data() const { return reinterpret_cast<const Duo*>(lines_.data()); }

 private:
  std::vector<CacheLine> lines_;
};

// The dimension at a place of a head's packed order.
size_t dim_of(size_t place, const Turn* turn) {
  if (!turn || !turn->interleaved || place >= 2 * turn->pairs) return place;
  return place < turn->pairs ? 2 * place : 2 * (place - turn->pairs) + 1;
}

// Basis, scales and means in packed order: plane after plane, each padded to whole tiles.
class Packed {
 public:
  Packed(const Synthesis& s, size_t width)
      : width_(width), depth_(parts(s.depth, 2)), columns_(order(s)), basis_(0) {
    basis_ = Duos(columns_.size() * depth_);
    for (size_t first = 0; first < columns_.size(); first += width) pack_panel(s, first);
    for (const size_t column : columns_) {
      scales_.push_back(column == kNoColumn ? 0 : s.scales[column]);
      means_.push_back(column == kNoColumn ? 0 : s.means[column]);
    }
  }

  size_t depth() const { return depth_; }  // in duos
  // `first` is a multiple of the width.
  const Duo* panel(size_t first) const { return basis_.data() + first * depth_; }
  const float* scales(size_t first) const { return scales_.data() + first; }
  const float* means(size_t first) const { return means_.data() + first; }

 private:
  // The column of the basis at every place.
  std::vector<size_t> order(const Synthesis& s) const {
    std::vector<size_t> columns;
    size_t column = 0;
    for (const Plane& plane : s.planes) {
      const Turn* turn = plane.turn ? &s.turns[*plane.turn] : nullptr;
      for (size_t head = 0; head < plane.heads; head++, column += plane.dim) {
        for (size_t i = 0; i < plane.dim; i++) columns.push_back(column + dim_of(i, turn));
      }
      columns.resize(round_up(columns.size(), width_), kNoColumn);
    }
    return columns;
  }

  void pack_panel(const Synthesis& s, size_t first) {
    const size_t* columns = columns_.data() + first;
    bool straight = columns[0] != kNoColumn;  // columns side by side, packed many at a time
    for (size_t i = 1; i < width_; i++) straight = straight && columns[i] == columns[0] + i;
    for (size_t k = 0; k < s.depth; k += 2) {
      const int16_t* row = s.basis + k * s.columns;
      const int16_t* next = k + 1 < s.depth ? row + s.columns : nullptr;
      Duo* duos = basis_.data() + first * depth_ + k / 2 * width_;
      if (straight && next) {
        for (size_t i = 0; i < width_; i++) duos[i] = {row[columns[0] + i], next[columns[0] + i]};
      } else {
        for (size_t i = 0; i < width_; i++) duos[i] = duo(row, next, columns[i]);
      }
    }
  }

  static Duo duo(const int16_t* row, const int16_t* next, size_t column) {
    if (column == kNoColumn) return {0, 0};
    return {row[column], next ? next[column] : int16_t(0)};
  }

  size_t width_;
  size_t depth_;
  std::vector<size_t> columns_;
  Duos basis_;
  std::vector<float> scales_;
  std::vector<float> means_;
};

size_t widest_plane(const Synthesis& s) {
  size_t widest = 0;
  for (const Plane& plane : s.planes) widest = std::max(widest, plane.heads * plane.dim);
  return widest;
}

// One thread's work: blocks of rows, each plane by plane.
class BlockJob {
 public:
  BlockJob(const Synthesis& s, const SynthesisKernel& kernel, const Packed& packed)
      : s_(s),
        kernel_(kernel),
        packed_(packed),
        stride_(round_up(widest_plane(s), kernel.width)),
        duos_(kBlockRows * packed.depth()),
        sums_(kBlockRows * stride_) {}

  bool operator()(size_t block) {
    first_ = block * kBlockRows;
    rows_ = std::min(kBlockRows, s_.rows - first_);
    pack_rows();
    size_t column = 0;
    for (const Plane& plane : s_.planes) {
      multiply(plane, column);
      for (size_t head = 0; head < plane.heads; head++) finish(plane, head, column);
      column += round_up(plane.heads * plane.dim, kernel_.width);
    }
    return true;
  }

 private:
  // The coefficients tile by tile as (depth, kernel rows); rows after the last keep what they were.
  void pack_rows() {
    for (size_t row = 0; row < rows_; row++) {
      const int16_t* from = s_.coefficients + (first_ + row) * s_.depth;
      Duo* to = tile_rows(row - row % kernel_.rows) + row % kernel_.rows;
      for (size_t k = 0; k + 1 < s_.depth; k += 2, to += kernel_.rows) *to = {from[k], from[k + 1]};
      if (s_.depth % 2) *to = {from[s_.depth - 1], 0};
    }
  }

  Duo* tile_rows(size_t row) { return duos_.data() + row * packed_.depth(); }

  void multiply(const Plane& plane, size_t first_column) {
    for (size_t column = 0; column < plane.heads * plane.dim; column += kernel_.width) {
      const Duo* panel = packed_.panel(first_column + column);
      for (size_t row = 0; row < rows_; row += kernel_.rows) {
        int32_t* sums = sums_.data() + row * stride_ + column;
        kernel_.multiply(tile_rows(row), panel, packed_.depth(), sums, stride_);
      }
    }
  }

  void finish(const Plane& plane, size_t head, size_t first_column) const {
    const size_t column = head * plane.dim;
    const size_t token = head * s_.num_tokens + s_.first_token + first_;
    const Turn turn = plane.turn ? s_.turns[*plane.turn] : Turn{};
    const size_t element_size = s_.dtype == Dtype::float32 ? sizeof(float) : sizeof(uint16_t);
    kernel_.finish[int(s_.dtype)]({
        .rows = rows_,
        .dim = plane.dim,
        .pairs = turn.pairs,
        .interleaved = turn.interleaved,
        .sums = sums_.data() + column,
        .stride = stride_,
        .scales = packed_.scales(first_column + column),
        .means = packed_.means(first_column + column),
        .cos = turn.cos + first_ * turn.pairs,
        .sin = turn.sin + first_ * turn.pairs,
        .out = static_cast<char*>(s_.out) + (plane.offset + token * plane.dim) * element_size,
    });
  }

  const Synthesis& s_;
  const SynthesisKernel& kernel_;
  const Packed& packed_;
  size_t stride_;
  Duos duos_;
  std::vector<int32_t> sums_;
  size_t first_ = 0;
  size_t rows_ = 0;
};

}  // namespace

void synthesise(const Synthesis& s, const SynthesisKernel& kernel, size_t threads) {
  check(s);
  if (s.rows == 0 || s.columns == 0) return;
  const Packed packed(s, kernel.width);
  run_jobs(parts(s.rows, kBlockRows), threads, [&] { return BlockJob(s, kernel, packed); });
}

}  // namespace cachegen

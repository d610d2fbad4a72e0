#include "synthesis.h"

#include <algorithm>
#include <stdexcept>

#include "parallel.h"
#include "synthesis_bytes.h"
#include "synthesis_packing.h"

namespace cachegen {
namespace {

// Columns worked on at a time, if heads are not wider: few enough that the sums of all lookups
// stay in the cache.
constexpr size_t kStripColumns = 64;

void require(bool condition, const char* message) {
  if (!condition) throw std::invalid_argument(message);
}

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
  require(s.tokens.size() == s.rows && s.depths.size() == s.rows &&
              s.multipliers.size() == s.rows,
          "there are not as many tokens, depths or multipliers as rows");
  for (const size_t token : s.tokens) require(token < s.num_tokens, "a row is no token");
  for (const size_t depth : s.depths) require(depth <= s.depth, "a row is deeper than the basis");
  for (const Turn& turn : s.turns) require(turn.rows == s.rows, "a rotation has other rows");
  for (const Lookup& one : s.lookups) require(one.rows == s.rows, "a lookup has other rows");
}

// Neighbouring heads of a plane, worked on together.
struct Strip {
  const Plane* plane;
  size_t first_head;
  size_t heads;
  size_t first_column;  // of the basis
};

std::vector<Strip> plan_strips(const Synthesis& s) {
  std::vector<Strip> strips;
  size_t column = 0;
  for (const Plane& plane : s.planes) {
    const size_t most = std::max<size_t>(1, kStripColumns / plane.dim);
    for (size_t head = 0; head < plane.heads; head += most) {
      const size_t heads = std::min(most, plane.heads - head);
      strips.push_back({&plane, head, heads, column});
      column += heads * plane.dim;
    }
  }
  return strips;
}

// The rows of a lookup's table that are named, once each, and where every row finds its own.
class Named {
 public:
  explicit Named(const Lookup& lookup) : places_(lookup.rows) {
    std::vector<uint32_t> place_of(lookup.entries);
    for (size_t row = 0; row < lookup.rows; row++) {
      const uint64_t id = uint64_t(lookup.ids[row]);
      if (id >= lookup.entries) continue;
      if (!place_of[id]) {
        ids_.push_back(id);
        place_of[id] = uint32_t(ids_.size());
      }
      places_[row] = place_of[id];
    }
  }

  size_t count() const { return 1 + ids_.size(); }
  const uint32_t* places(size_t row) const { return places_.data() + row; }

  // (count, depth); the first row is of zeros.
  std::vector<int16_t> table(const Lookup& lookup) const {
    std::vector<int16_t> table(count() * lookup.depth);
    int16_t* to = table.data() + lookup.depth;
    for (const size_t id : ids_) {
      to = std::copy_n(lookup.table + id * lookup.depth, lookup.depth, to);
    }
    return table;
  }

  std::vector<size_t> depths(const Lookup& lookup) const {
    return std::vector<size_t>(count(), lookup.depth);
  }

 private:
  std::vector<size_t> ids_;
  std::vector<uint32_t> places_;
};

struct PackedLookup {
  PackedLookup(const Lookup& lookup, size_t tile)
      : named(lookup),
        rows(named.table(lookup).data(), lookup.depth, named.depths(lookup), tile) {}

  Named named;
  PackedRows rows;
};

std::vector<size_t> at_most(std::vector<size_t> sizes, size_t most) {
  for (size_t& size : sizes) size = std::min(size, most);
  return sizes;
}

// What all strips share. Coefficients from `tail` on are digits, where the kernel takes bytes.
struct Inputs {
  Inputs(const Synthesis& s, const SynthesisKernel& kernel)
      : strips(plan_strips(s)),
        depth(*std::max_element(s.depths.begin(), s.depths.end())),
        tail(kernel.pack_bytes ? s.tail : depth),
        multipliers(s.multipliers),
        coefficients(s.coefficients, s.depth, at_most(s.depths, tail), kernel.rows),
        digits(s.coefficients, s.depth, tail, s.depths, kernel.rows) {
    multipliers.resize(round_up(s.rows, kernel.rows));
    for (const Lookup& lookup : s.lookups) lookups.emplace_back(lookup, kernel.rows);
  }

  std::vector<Strip> strips;
  size_t depth;  // of the deepest row
  size_t tail;
  std::vector<uint32_t> multipliers;
  PackedRows coefficients;
  PackedDigits digits;
  std::vector<PackedLookup> lookups;
};

// The dimension at a place of a head's packed order.
size_t dim_of(size_t place, const Turn* turn) {
  if (!turn || !turn->interleaved || place >= 2 * turn->pairs) return place;
  return place < turn->pairs ? 2 * place : 2 * (place - turn->pairs) + 1;
}

// One thread's work: strips, each block of rows by block.
class StripJob {
 public:
  StripJob(const Synthesis& s, const SynthesisKernel& kernel, const Inputs& inputs)
      : s_(s),
        kernel_(kernel),
        inputs_(inputs),
        ones_(kernel.rows, 1),
        lookup_sums_(inputs.lookups.size()) {}

  bool operator()(size_t index) {
    begin(inputs_.strips[index]);
    for (size_t i = 0; i < s_.lookups.size(); i++) sum_lookup(i);
    pack(s_.basis, inputs_.coefficients.depth());
    pack_tail();
    for (size_t first = 0; first < s_.rows; first += kBlockRows) {
      const size_t rows = std::min(kBlockRows, s_.rows - first);
      multiply(first, rows);
      add_lookups(first, rows);
      for (size_t head = 0; head < strip_.heads; head++) finish(head, first, rows);
    }
    return true;
  }

 private:
  // Sets the columns of the basis in packed order, scales and means likewise.
  void begin(const Strip& strip) {
    strip_ = strip;
    const Turn* turn = strip.plane->turn ? &s_.turns[*strip.plane->turn] : nullptr;
    columns_.clear();
    for (size_t head = 0; head < strip.heads; head++) {
      const size_t first = strip.first_column + head * strip.plane->dim;
      for (size_t i = 0; i < strip.plane->dim; i++) columns_.push_back(first + dim_of(i, turn));
    }
    scales_.clear();
    means_.clear();
    for (const size_t column : columns_) {
      scales_.push_back(s_.scales[column]);
      means_.push_back(s_.means[column]);
    }
    columns_.resize(round_up(columns_.size(), kernel_.width), kNoColumn);
    sums_.resize(kBlockRows * stride());
  }

  size_t stride() const { return columns_.size(); }

  void pack(const int16_t* basis, size_t depth) {
    pack_panels(basis, depth, s_.columns, columns_, kernel_.width, panels_);
  }

  void sum_lookup(size_t index) {
    const PackedRows& rows = inputs_.lookups[index].rows;
    pack(s_.lookups[index].basis, s_.lookups[index].depth);
    lookup_sums_[index].resize(round_up(rows.count(), kernel_.rows) * stride());
    for_tiles(0, rows.count(), [&](size_t row, size_t column) {
      const Factors factors = head(rows, row, column, ones_.data());
      kernel_.multiply(factors, lookup_sums_[index].data() + row * stride() + column, stride());
    });
  }

  // Looks for shifts whether or not the kernel takes bytes, so that all refuse the same.
  void pack_tail() {
    if (s_.tail >= inputs_.depth) return;
    find_shifts(s_.basis, s_.tail, inputs_.depth, s_.columns, columns_, shifts_);
    if (!kernel_.pack_bytes) return;
    pack_bytes(s_.basis, s_.tail, inputs_.depth, s_.columns, columns_, shifts_, kernel_, bytes_);
  }

  template <typename Visit>
  void for_tiles(size_t first, size_t count, const Visit& visit) const {
    for (size_t column = 0; column < stride(); column += kernel_.width) {
      for (size_t row = 0; row < count; row += kernel_.rows) visit(first + row, column);
    }
  }

  Factors head(const PackedRows& rows, size_t row, size_t column,
               const uint32_t* multipliers) const {
    return {.rows = rows.duos(row),
            .panel = panels_.data() + column * parts(rows.depth(), 2),
            .depth = rows.depth(row),
            .multipliers = multipliers};
  }

  // The sums of the tiles of `count` rows.
  void multiply(size_t first, size_t count) {
    for_tiles(first, count, [&](size_t row, size_t column) {
      Factors factors =
          head(inputs_.coefficients, row, column, inputs_.multipliers.data() + row);
      const PackedDigits::Tile& tile = inputs_.digits.tile(row);
      if (tile.depth) {
        factors.digits = inputs_.digits.quads(row);
        factors.bytes = bytes_.data() + column * parts(inputs_.depth - inputs_.tail, 4);
        factors.num_digits = tile.digits;
        factors.byte_depth = tile.depth;
        factors.offsets = inputs_.digits.offsets(row);
        factors.shifts = shifts_.data() + column;
      }
      kernel_.multiply(factors, sums_.data() + (row - first) * stride() + column, stride());
    });
  }

  void add_lookups(size_t first, size_t rows) {
    addends_.clear();
    for (size_t i = 0; i < s_.lookups.size(); i++) {
      addends_.push_back({lookup_sums_[i].data(), inputs_.lookups[i].named.places(first)});
    }
    kernel_.add(sums_.data(), rows, stride(), addends_.data(), addends_.size());
  }

  void finish(size_t head, size_t first, size_t rows) const {
    const Plane& plane = *strip_.plane;
    const size_t column = head * plane.dim;
    const size_t value = (strip_.first_head + head) * s_.num_tokens * plane.dim;
    const Turn turn = plane.turn ? s_.turns[*plane.turn] : Turn{};
    const size_t element_size = s_.dtype == Dtype::float32 ? sizeof(float) : sizeof(uint16_t);
    kernel_.finish[int(s_.dtype)]({
        .rows = rows,
        .dim = plane.dim,
        .pairs = turn.pairs,
        .interleaved = turn.interleaved,
        .sums = sums_.data() + column,
        .stride = stride(),
        .scales = scales_.data() + column,
        .means = means_.data() + column,
        .cos = turn.cos + first * turn.pairs,
        .sin = turn.sin + first * turn.pairs,
        .tokens = s_.tokens.data() + first,
        .out = static_cast<char*>(s_.out) + (plane.offset + value) * element_size,
    });
  }

  const Synthesis& s_;
  const SynthesisKernel& kernel_;
  const Inputs& inputs_;
  Strip strip_{};
  std::vector<size_t> columns_;
  std::vector<float> scales_;
  std::vector<float> means_;
  Aligned<Duo> panels_;
  std::vector<uint32_t> shifts_;
  Aligned<Bytes> bytes_;
  std::vector<uint32_t> ones_;
  std::vector<Aligned<int32_t>> lookup_sums_;
  std::vector<Addend> addends_;
  Aligned<int32_t> sums_;
};

}  // namespace

void synthesise(const Synthesis& s, const SynthesisKernel& kernel, size_t threads) {
  check(s);
  if (s.rows == 0 || s.columns == 0) return;
  const Inputs inputs(s, kernel);
  run_jobs(inputs.strips.size(), threads, [&] { return StripJob(s, kernel, inputs); });
}

}  // namespace cachegen

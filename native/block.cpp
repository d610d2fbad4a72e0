#include "block.h"

#include <algorithm>
#include <atomic>
#include <limits>
#include <memory>
#include <stdexcept>
#include <string>

#include "parallel.h"
#include "tables.h"

namespace cachegen {
namespace {

// Up to here all decode tables are built once (4 MiB); beyond, per substream, for its own columns.
constexpr size_t kMaxSharedTables = 256;
constexpr size_t kMaxTablesPerSubstream = 4096;

struct Grid {
  size_t row_parts;
  size_t group_parts;
  size_t rows_each;
  size_t groups_each;
  size_t groups;

  size_t count() const { return row_parts * group_parts; }
};

struct Rectangle {
  size_t row;
  size_t column;
  Shape shape;
};

// Neighbouring substreams of one shape, coded in lockstep.
struct Run {
  size_t first;
  int count;
};

void require(bool condition, const char* message) {
  if (!condition) throw std::invalid_argument(message);
}

size_t parts(size_t total, size_t each) { return total / each + (total % each != 0); }

Grid make_grid(const Block& block) {
  require(block.lanes == 8 || block.lanes == 16 || block.lanes == 32, "lanes must be 8, 16 or 32");
  require(block.columns % block.lanes == 0, "columns must be a multiple of lanes");
  require(block.rows_per_substream > 0 && block.groups_per_substream > 0, "an empty substream");
  constexpr size_t kMaxSymbols = std::numeric_limits<size_t>::max() / 4;
  require(block.columns == 0 || block.rows <= kMaxSymbols / block.columns, "a block too large");
  Grid grid;
  grid.groups = block.columns / block.lanes;
  grid.row_parts = parts(block.rows, block.rows_per_substream);
  grid.group_parts = parts(grid.groups, block.groups_per_substream);
  grid.rows_each = std::min(block.rows_per_substream, block.rows);
  grid.groups_each = std::min(block.groups_per_substream, grid.groups);
  return grid;
}

void check_tables(const Block& block) {
  for (size_t column = 0; column < block.columns; column++) {
    const int32_t id = block.table_ids[column];
    require(id >= 0 && size_t(id) < block.tables, "a table id is out of range");
  }
}

Rectangle rectangle(const Block& block, const Grid& grid, size_t substream) {
  const size_t row = substream / grid.group_parts * grid.rows_each;
  const size_t group = substream % grid.group_parts * grid.groups_each;
  return {row,
          group * block.lanes,
          {std::min(grid.rows_each, block.rows - row),
           std::min(grid.groups_each, grid.groups - group), block.columns}};
}

// Runs as long as lockstep gains and yet so many that the threads get equal shares.
std::vector<Run> plan_runs(const Block& block, const Grid& grid, size_t longest, size_t threads) {
  const size_t workers = std::min<size_t>(std::max<size_t>(threads, 1), grid.count() + 1);
  const size_t rounds = parts(grid.count(), workers * longest);
  const size_t length = grid.count() ? parts(grid.count(), workers * rounds) : 1;
  std::vector<Run> runs;
  for (size_t i = 0; i < grid.count(); i++) {
    const Shape shape = rectangle(block, grid, i).shape;
    const bool extends = !runs.empty() && size_t(runs.back().count) < length;
    const Shape last = extends ? rectangle(block, grid, runs.back().first).shape : Shape{};
    if (extends && shape.rows == last.rows && shape.groups == last.groups) {
      runs.back().count++;
    } else {
      runs.push_back({i, 1});
    }
  }
  return runs;
}

size_t lane_index(size_t lanes) { return lanes == 8 ? 0 : lanes == 16 ? 1 : 2; }

class Decoder {
 public:
  Decoder(const Block& block, const Kernel& kernel, const uint16_t* words, size_t num_words,
          const uint32_t* sizes, size_t num_sizes, uint8_t* symbols)
      : block_(block),
        grid_(make_grid(block)),
        decode_(kernel.decode[lane_index(block.lanes)]),
        words_(words),
        symbols_(symbols) {
    check_tables(block);
    require(num_sizes == grid_.count(), "as many sizes as substreams are needed");
    offsets_.reserve(num_sizes + 1);
    offsets_.push_back(0);
    for (size_t i = 0; i < num_sizes; i++) offsets_.push_back(offsets_.back() + sizes[i]);
    require(offsets_.back() + kPaddingWords == num_words, "the sizes contradict the words");
    shared_ = count_distinct(block.table_ids, block.columns, block.tables) <= kMaxSharedTables;
    if (shared_) tables_ = make_tables(block.table_ids, block.columns);
  }

  DecodeResult run(size_t threads) const {
    const std::vector<Run> runs = plan_runs(block_, grid_, shared_ ? kMaxInFlight : 1, threads);
    std::vector<DecodeResult> results(runs.size(), {0, Status::ok});
    const auto job = [&](size_t i) {
      results[i] = decode_run(runs[i]);
      return results[i].status == Status::ok;
    };
    run_jobs(runs.size(), threads, [&] { return job; });
    for (const DecodeResult& result : results) {
      if (result.status != Status::ok) return result;
    }
    return {0, Status::ok};
  }

 private:
  DecodeResult decode_run(const Run& run) const {
    if (!shared_) return decode_lone(run.first);
    DecodeStream streams[kMaxInFlight];
    for (int i = 0; i < run.count; i++) streams[i] = stream(run.first + i);
    const Shape shape = rectangle(block_, grid_, run.first).shape;
    const uint32_t* entries = tables_.entries.get();
    if (decode_(shape, entries, streams, run.count) == Status::ok) return {0, Status::ok};
    for (int i = 0; i < run.count; i++) {
      const Status status = decode_(shape, entries, streams + i, 1);
      if (status != Status::ok) return {run.first + i, status};
    }
    throw std::logic_error("streams decode alone but not in lockstep");
  }

  DecodeResult decode_lone(size_t substream) const {
    const Rectangle part = rectangle(block_, grid_, substream);
    const size_t columns = part.shape.groups * block_.lanes;
    const int32_t* ids = block_.table_ids + part.column;
    require(count_distinct(ids, columns, block_.tables) <= kMaxTablesPerSubstream,
            "too many tables a substream");
    const ColumnTables tables = make_tables(ids, columns);
    DecodeStream lone = stream(substream);
    lone.bases = tables.bases.data();
    return {substream, decode_(part.shape, tables.entries.get(), &lone, 1)};
  }

  ColumnTables make_tables(const int32_t* table_ids, size_t columns) const {
    return decode_tables(table_ids, columns, block_.frequencies, block_.tables);
  }

  DecodeStream stream(size_t substream) const {
    const Rectangle part = rectangle(block_, grid_, substream);
    return {words_ + offsets_[substream], words_ + offsets_[substream + 1],
            symbols_ + part.row * block_.columns + part.column, tables_.bases.data() + part.column};
  }

  const Block& block_;
  const Grid grid_;
  const DecodeFunction decode_;
  const uint16_t* const words_;
  uint8_t* const symbols_;
  std::vector<uint64_t> offsets_;
  bool shared_;
  ColumnTables tables_;
};

// Memory that a thread's runs use one after the other, since fresh pages cost as much as coding.
class Scratch {
 public:
  uint16_t* of_at_least(size_t words) {
    if (words > size_) {
      memory_.reset(new uint16_t[words]);
      size_ = words;
    }
    return memory_.get();
  }

 private:
  std::unique_ptr<uint16_t[]> memory_;
  size_t size_ = 0;
};

class Encoder {
 public:
  Encoder(const Block& block, const Kernel& kernel, const uint8_t* symbols)
      : block_(block),
        grid_(make_grid(block)),
        encode_(kernel.encode[lane_index(block.lanes)]),
        symbols_(symbols) {
    check_tables(block);
    require(worst_words() <= std::numeric_limits<uint32_t>::max(), "a substream is too large");
    tables_ = encode_tables(block.table_ids, block.columns, block.frequencies, block.tables);
  }

  EncodeResult run(size_t threads) const {
    const std::vector<Run> runs = plan_runs(block_, grid_, kMaxInFlight, threads);
    EncodeResult result{std::vector<std::vector<uint16_t>>(grid_.count()), true};
    std::atomic<bool> codable{true};
    run_jobs(runs.size(), threads, [&] {
      return [&, scratch = Scratch{}](size_t i) mutable {
        uint16_t* buffer = scratch.of_at_least(worst_words() * runs[i].count);
        if (!encode_run(runs[i], buffer, result.substreams.data() + runs[i].first)) codable = false;
        return codable.load();
      };
    });
    result.codable = codable;
    return result;
  }

 private:
  // No step makes more than a word a lane.
  size_t worst_words() const {
    return (grid_.rows_each * grid_.groups_each + 2) * block_.lanes + kSlackWords;
  }

  bool encode_run(const Run& run, uint16_t* buffer, std::vector<uint16_t>* substreams) const {
    const Shape shape = rectangle(block_, grid_, run.first).shape;
    EncodeStream streams[kMaxInFlight];
    for (int i = 0; i < run.count; i++) {
      const Rectangle part = rectangle(block_, grid_, run.first + i);
      uint16_t* words_end = buffer + worst_words() * (i + 1);
      streams[i] = {symbols_ + part.row * block_.columns + part.column,
                    tables_.bases.data() + part.column, words_end, words_end};
    }
    if (!encode_(shape, tables_.entries.get(), streams, run.count)) return false;
    for (int i = 0; i < run.count; i++) {
      substreams[i].assign(streams[i].words, streams[i].words_end);
    }
    return true;
  }

  const Block& block_;
  const Grid grid_;
  const EncodeFunction encode_;
  const uint8_t* const symbols_;
  ColumnTables tables_;
};

}  // namespace

size_t count_substreams(const Block& block) { return make_grid(block).count(); }

DecodeResult decode_block(const Block& block, const uint16_t* words, size_t num_words,
                          const uint32_t* sizes, size_t num_sizes, uint8_t* symbols,
                          const Kernel& kernel, size_t threads) {
  return Decoder(block, kernel, words, num_words, sizes, num_sizes, symbols).run(threads);
}

EncodeResult encode_block(const Block& block, const uint8_t* symbols, const Kernel& kernel,
                          size_t threads) {
  return Encoder(block, kernel, symbols).run(threads);
}

}  // namespace cachegen

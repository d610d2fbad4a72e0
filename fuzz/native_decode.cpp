// Fuzzes the native coder: hostile blocks must never harm it, and all instruction sets must agree.
//
//   cmake -S . -B build/fuzz -DCMAKE_CXX_COMPILER=clang++-14 -DCACHEGEN_PYTHON=OFF -DCACHEGEN_FUZZ=ON
//   cmake --build build/fuzz
//   python fuzz/native_seeds.py build/fuzz/seeds
//   build/fuzz/native/native_decode build/fuzz/seeds -max_len=16384 -max_total_time=600
//
// An input is seven bytes (lanes, rows, groups, rows and groups per substream, tables, repair),
// a table id per column (int32), the tables, a size per substream (uint32), and the words.
// With `repair` the first three are made valid where they are not, so that decoding gets far.
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <vector>

#include "block.h"
#include "dispatch.h"

using namespace cachegen;

namespace {

class Reader {
 public:
  Reader(const uint8_t* data, size_t size) : data_(data), size_(size) {}

  uint8_t byte() { return size_ ? (size_--, *data_++) : 0; }

  // Zeros where the input ends too early.
  template <typename T>
  std::vector<T> array(size_t count) {
    std::vector<T> values(count);
    const size_t bytes = std::min(size_, count * sizeof(T));
    if (bytes) std::memcpy(values.data(), data_, bytes);
    data_ += bytes;
    size_ -= bytes;
    return values;
  }

  size_t left() const { return size_; }

 private:
  const uint8_t* data_;
  size_t size_;
};

struct Input {
  size_t lanes, rows, groups, rows_per_substream, groups_per_substream, tables;
  std::vector<int32_t> table_ids;
  std::vector<uint16_t> frequencies;
  std::vector<uint32_t> sizes;
  std::vector<uint16_t> words;

  Block block() const {
    return {rows, groups * lanes, lanes, rows_per_substream, groups_per_substream,
            table_ids.data(), frequencies.data(), tables};
  }
};

// The same table if it is a distribution, else the nearest thing to it.
void repair_table(uint16_t* frequencies) {
  unsigned left = kProbabilityScale;
  for (int symbol = 0; symbol < 255; symbol++) {
    frequencies[symbol] = uint16_t(std::min({unsigned(frequencies[symbol]), left, 4095u}));
    left -= frequencies[symbol];
  }
  frequencies[255] = uint16_t(std::min(left, 4095u));
  frequencies[0] += uint16_t(left - frequencies[255]);
}

void repair_sizes(std::vector<uint32_t>& sizes, size_t num_words) {
  size_t left = num_words;
  for (uint32_t& size : sizes) {
    size = uint32_t(std::min<size_t>(size, left));
    left -= size;
  }
  if (!sizes.empty()) sizes.back() += uint32_t(left);
}

Input parse(Reader reader) {
  Input input;
  const size_t lane_counts[] = {8, 16, 32, 9};
  input.lanes = lane_counts[reader.byte() % 4];
  input.rows = reader.byte() % 64;
  input.groups = reader.byte() % 8;
  input.rows_per_substream = reader.byte();
  input.groups_per_substream = reader.byte();
  input.tables = reader.byte() % 4 + 1;
  const bool repair = reader.byte() % 2;
  input.table_ids = reader.array<int32_t>(input.groups * input.lanes);
  input.frequencies = reader.array<uint16_t>(input.tables * 256);
  size_t substreams = 0;
  try {
    substreams = count_substreams(input.block());
  } catch (const std::invalid_argument&) {
  }
  input.sizes = reader.array<uint32_t>(substreams);
  input.words = reader.array<uint16_t>(reader.left() / 2);
  if (repair) {
    for (int32_t& id : input.table_ids) id = int32_t(uint32_t(id) % input.tables);
    for (size_t i = 0; i < input.tables; i++) repair_table(input.frequencies.data() + 256 * i);
    repair_sizes(input.sizes, input.words.size());
  }
  input.words.resize(input.words.size() + kPaddingWords);
  return input;
}

void require(bool condition) {
  if (!condition) std::abort();
}

struct Decoded {
  bool accepted = false;
  DecodeResult result{0, Status::ok};
  std::vector<uint8_t> symbols;
};

Decoded decode(const Input& input, const Kernel& kernel, size_t threads) {
  Decoded decoded;
  decoded.symbols.assign(input.rows * input.groups * input.lanes, 0xff);
  try {
    decoded.result = decode_block(input.block(), input.words.data(), input.words.size(),
                                  input.sizes.data(), input.sizes.size(), decoded.symbols.data(),
                                  kernel, threads);
    decoded.accepted = true;
  } catch (const std::invalid_argument&) {
  }
  return decoded;
}

// What decodes was made by an encoder: coding it again gives the same words.
void check_recoded(const Input& input, const std::vector<uint8_t>& symbols, const Kernel& kernel) {
  const EncodeResult coded = encode_block(input.block(), symbols.data(), kernel, 1);
  require(coded.codable && coded.substreams.size() == input.sizes.size());
  const uint16_t* word = input.words.data();
  for (const auto& substream : coded.substreams) {
    require(std::equal(substream.begin(), substream.end(), word));
    word += substream.size();
  }
}

void check_decoding(const Input& input) {
  const Decoded expected = decode(input, kPortable, 1);
  for (const Kernel* kernel : supported_kernels()) {
    const size_t threads = 1 + input.rows % 2;
    const Decoded decoded = decode(input, *kernel, threads);
    require(decoded.accepted == expected.accepted);
    if (!expected.accepted) continue;
    require((decoded.result.status == Status::ok) == (expected.result.status == Status::ok));
    if (expected.result.status != Status::ok) {
      require(decoded.result.status == expected.result.status);
      require(decoded.result.substream == expected.result.substream);
    } else {
      require(decoded.symbols == expected.symbols);
      check_recoded(input, decoded.symbols, *kernel);
    }
  }
}

// Any bytes are symbols; all sets agree on whether they can be coded and on their words.
void check_encoding(const Input& input) {
  std::vector<uint8_t> symbols(input.rows * input.groups * input.lanes);
  const size_t known = std::min(symbols.size(), 2 * input.words.size());
  if (known) std::memcpy(symbols.data(), input.words.data(), known);
  EncodeResult expected{{}, false};
  try {
    expected = encode_block(input.block(), symbols.data(), kPortable, 1);
  } catch (const std::invalid_argument&) {
    return;
  }
  for (const Kernel* kernel : supported_kernels()) {
    const EncodeResult coded = encode_block(input.block(), symbols.data(), *kernel, 1);
    require(coded.codable == expected.codable);
    if (expected.codable) require(coded.substreams == expected.substreams);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const Input input = parse(Reader(data, size));
  check_decoding(input);
  check_encoding(input);
  return 0;
}

// Python bindings: arrays in, arrays out. Arguments are checked here again, since memory safety
// must not depend on the Python side; what a damaged block means is said there.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <memory>
#include <stdexcept>

#include "block.h"
#include "dispatch.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace {

template <typename T, int Dimensions>
using Input = nb::ndarray<const T, nb::ndim<Dimensions>, nb::c_contig, nb::device::cpu>;
using Output = nb::ndarray<uint8_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
template <typename T>
using Result = nb::ndarray<nb::numpy, T, nb::ndim<1>>;

template <typename T>
Result<T> to_numpy(std::unique_ptr<T[]> data, size_t size) {
  T* raw = data.release();
  const nb::capsule owner(raw, [](void* p) noexcept { delete[] static_cast<T*>(p); });
  return Result<T>(raw, {size}, owner);
}

cachegen::Block make_block(size_t rows, size_t columns, const Input<int32_t, 1>& table_ids,
                           const Input<uint16_t, 2>& frequencies, size_t lanes,
                           size_t rows_per_substream, size_t groups_per_substream) {
  if (table_ids.shape(0) != columns || frequencies.shape(1) != 256) {
    throw std::invalid_argument("table_ids or frequencies have the wrong shape");
  }
  return {rows, columns, lanes, rows_per_substream, groups_per_substream, table_ids.data(),
          frequencies.data(), frequencies.shape(0)};
}

struct Joined {
  std::unique_ptr<uint16_t[]> words;
  std::unique_ptr<uint32_t[]> sizes;
  size_t num_words = cachegen::kPaddingWords;
};

// The substreams one after the other, and the padding.
Joined join(const std::vector<std::vector<uint16_t>>& substreams) {
  Joined joined;
  for (const auto& substream : substreams) joined.num_words += substream.size();
  joined.words.reset(new uint16_t[joined.num_words]);
  joined.sizes.reset(new uint32_t[substreams.size()]);
  uint16_t* word = joined.words.get();
  for (size_t i = 0; i < substreams.size(); i++) {
    joined.sizes[i] = uint32_t(substreams[i].size());
    word = std::copy(substreams[i].begin(), substreams[i].end(), word);
  }
  std::fill_n(word, cachegen::kPaddingWords, uint16_t(0));
  return joined;
}

// (words, sizes), or None if a symbol has frequency 0.
nb::object encode(const Input<uint8_t, 2>& symbols, const Input<int32_t, 1>& table_ids,
                  const Input<uint16_t, 2>& frequencies, size_t lanes, size_t rows_per_substream,
                  size_t groups_per_substream, size_t threads, const std::string& isa) {
  const cachegen::Block block =
      make_block(symbols.shape(0), symbols.shape(1), table_ids, frequencies, lanes,
                 rows_per_substream, groups_per_substream);
  cachegen::EncodeResult coded;
  Joined joined;
  {
    const nb::gil_scoped_release release;
    coded = cachegen::encode_block(block, symbols.data(), cachegen::find_kernel(isa), threads);
    if (coded.codable) joined = join(coded.substreams);
  }
  if (!coded.codable) return nb::none();
  return nb::make_tuple(to_numpy(std::move(joined.words), joined.num_words),
                        to_numpy(std::move(joined.sizes), coded.substreams.size()));
}

// (status, substream): status is 0 or says what is wrong with that substream.
nb::tuple decode(const Input<uint16_t, 1>& words, const Input<uint32_t, 1>& sizes,
                 const Input<int32_t, 1>& table_ids, const Input<uint16_t, 2>& frequencies,
                 const Output& symbols, size_t lanes, size_t rows_per_substream,
                 size_t groups_per_substream, size_t threads, const std::string& isa) {
  const cachegen::Block block =
      make_block(symbols.shape(0), symbols.shape(1), table_ids, frequencies, lanes,
                 rows_per_substream, groups_per_substream);
  cachegen::DecodeResult result;
  {
    const nb::gil_scoped_release release;
    result = cachegen::decode_block(block, words.data(), words.shape(0), sizes.data(),
                                    sizes.shape(0), symbols.data(), cachegen::find_kernel(isa),
                                    threads);
  }
  return nb::make_tuple(int(result.status), result.substream);
}

std::vector<std::string> supported() {
  std::vector<std::string> names;
  for (const auto* kernel : cachegen::supported_kernels()) names.push_back(kernel->name);
  return names;
}

}  // namespace

NB_MODULE(_native, module) {
  module.doc() = "The native rANS kernels; cachegen.kernels.cpu is their interface.";
  module.def("encode", &encode, "symbols"_a, "table_ids"_a, "frequencies"_a, nb::kw_only(),
             "lanes"_a, "rows_per_substream"_a, "groups_per_substream"_a, "threads"_a, "isa"_a);
  module.def("decode", &decode, "words"_a, "sizes"_a, "table_ids"_a, "frequencies"_a, "symbols"_a,
             nb::kw_only(), "lanes"_a, "rows_per_substream"_a, "groups_per_substream"_a,
             "threads"_a, "isa"_a);
  module.def("supported", &supported, "Instruction sets that run here, fastest first.");
}

// Python bindings: arrays in, arrays out. Arguments are checked here again, since memory safety
// must not depend on the Python side; what a damaged block means is said there.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <memory>
#include <stdexcept>

#include "block.h"
#include "dispatch.h"
#include "synthesis.h"

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

using AnyOutput = nb::ndarray<nb::ndim<1>, nb::c_contig, nb::device::cpu>;
// Heads, dimensions, offset, index of a rotation.
using PlaneFields = std::tuple<size_t, size_t, size_t, std::optional<size_t>>;
// Cosines, sines, interleaved.
using TurnFields = std::tuple<Input<float, 2>, Input<float, 2>, bool>;
// Table, ids, basis.
using LookupFields = std::tuple<Input<int8_t, 2>, Input<int64_t, 1>, Input<int16_t, 2>>;

cachegen::Dtype find_dtype(const std::string& name, const AnyOutput& out) {
  const bool is_float = name == "float32";
  if (out.dtype() != (is_float ? nb::dtype<float>() : nb::dtype<uint16_t>())) {
    throw std::invalid_argument("out has the wrong element type");
  }
  if (is_float) return cachegen::Dtype::float32;
  if (name == "bfloat16") return cachegen::Dtype::bfloat16;
  if (name == "float16") return cachegen::Dtype::float16;
  throw std::invalid_argument("no dtype named '" + name + "'");
}

std::vector<cachegen::Plane> make_planes(const std::vector<PlaneFields>& fields) {
  std::vector<cachegen::Plane> planes;
  for (const auto& [heads, dim, offset, turn] : fields) {
    planes.push_back({heads, dim, offset, turn});
  }
  return planes;
}

std::vector<cachegen::Turn> make_turns(const std::vector<TurnFields>& fields) {
  std::vector<cachegen::Turn> turns;
  for (const auto& [cos, sin, interleaved] : fields) {
    if (cos.shape(0) != sin.shape(0) || cos.shape(1) != sin.shape(1)) {
      throw std::invalid_argument("cos and sin have different shapes");
    }
    turns.push_back({cos.data(), sin.data(), cos.shape(0), cos.shape(1), interleaved});
  }
  return turns;
}

std::vector<cachegen::Lookup> make_lookups(const std::vector<LookupFields>& fields,
                                           size_t columns) {
  std::vector<cachegen::Lookup> lookups;
  for (const auto& [table, ids, basis] : fields) {
    if (basis.shape(0) != table.shape(1) || basis.shape(1) != columns) {
      throw std::invalid_argument("a lookup's table and basis do not fit together");
    }
    lookups.push_back({table.data(), table.shape(0), table.shape(1), ids.data(), ids.shape(0),
                       basis.data()});
  }
  return lookups;
}

// Copies, so that nothing changes them once they are checked; negative ones become huge.
std::vector<size_t> make_sizes(const Input<int64_t, 1>& array) {
  return {array.data(), array.data() + array.shape(0)};
}

// All coefficients of every row by default.
std::vector<size_t> make_depths(const std::optional<Input<int64_t, 1>>& depths,
                                const Input<int16_t, 2>& coefficients) {
  if (depths) return make_sizes(*depths);
  return std::vector<size_t>(coefficients.shape(0), coefficients.shape(1));
}

// Ones by default; negative ones wrap.
std::vector<uint32_t> make_multipliers(const std::optional<Input<int64_t, 1>>& multipliers,
                                       size_t rows) {
  if (!multipliers) return std::vector<uint32_t>(rows, 1);
  std::vector<uint32_t> made;
  for (size_t i = 0; i < multipliers->shape(0); i++) {
    made.push_back(uint32_t(multipliers->data()[i]));
  }
  return made;
}

void synthesise(const Input<int16_t, 2>& coefficients, const Input<int16_t, 2>& basis,
                const Input<float, 1>& scales, const Input<float, 1>& means, const AnyOutput& out,
                const std::vector<LookupFields>& lookups, const std::vector<PlaneFields>& planes,
                const std::vector<TurnFields>& rotations, size_t num_tokens,
                const Input<int64_t, 1>& tokens, const std::optional<Input<int64_t, 1>>& depths,
                const std::optional<Input<int64_t, 1>>& multipliers, std::optional<size_t> tail,
                const std::string& dtype, size_t threads, const std::string& isa) {
  const size_t columns = basis.shape(1);
  if (basis.shape(0) != coefficients.shape(1) || scales.shape(0) != columns ||
      means.shape(0) != columns) {
    throw std::invalid_argument("coefficients, basis, scales and means do not fit together");
  }
  const cachegen::Synthesis synthesis = {.rows = coefficients.shape(0),
                                         .depth = coefficients.shape(1),
                                         .columns = columns,
                                         .coefficients = coefficients.data(),
                                         .basis = basis.data(),
                                         .lookups = make_lookups(lookups, columns),
                                         .scales = scales.data(),
                                         .means = means.data(),
                                         .planes = make_planes(planes),
                                         .turns = make_turns(rotations),
                                         .num_tokens = num_tokens,
                                         .tokens = make_sizes(tokens),
                                         .depths = make_depths(depths, coefficients),
                                         .multipliers =
                                             make_multipliers(multipliers, coefficients.shape(0)),
                                         .tail = tail.value_or(coefficients.shape(1)),
                                         .dtype = find_dtype(dtype, out),
                                         .out = out.data(),
                                         .out_size = out.shape(0)};
  const nb::gil_scoped_release release;
  cachegen::synthesise(synthesis, cachegen::find_synthesis_kernel(isa), threads);
}

std::vector<std::string> supported() {
  std::vector<std::string> names;
  for (const auto* kernel : cachegen::supported_kernels()) names.push_back(kernel->name);
  return names;
}

}  // namespace

NB_MODULE(_native, module) {
  module.doc() = "The native kernels; cachegen.kernels.cpu is their interface.";
  module.def("encode", &encode, "symbols"_a, "table_ids"_a, "frequencies"_a, nb::kw_only(),
             "lanes"_a, "rows_per_substream"_a, "groups_per_substream"_a, "threads"_a, "isa"_a);
  module.def("decode", &decode, "words"_a, "sizes"_a, "table_ids"_a, "frequencies"_a, "symbols"_a,
             nb::kw_only(), "lanes"_a, "rows_per_substream"_a, "groups_per_substream"_a,
             "threads"_a, "isa"_a);
  module.def("synthesise", &synthesise, "coefficients"_a, "basis"_a, "scales"_a, "means"_a,
             "out"_a.noconvert(), nb::kw_only(), "lookups"_a, "planes"_a, "rotations"_a,
             "num_tokens"_a, "tokens"_a, "depths"_a.none(), "multipliers"_a = nb::none(), "tail"_a = nb::none(),
             "dtype"_a, "threads"_a, "isa"_a);
  module.def("supported", &supported, "Instruction sets that run here, fastest first.");
}

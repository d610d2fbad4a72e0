// The portable kernels on another processor: prints a digest, which is the same on every machine.
//
//   apt install g++-aarch64-linux-gnu qemu-user
//   cmake -S . -B build/aarch64 -DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR=aarch64
//         -DCMAKE_CXX_COMPILER=aarch64-linux-gnu-g++ -DCACHEGEN_PYTHON=OFF -DCACHEGEN_WERROR=ON
//   cmake --build build/aarch64
//   aarch64-linux-gnu-g++ -std=c++20 -O2 -static -I native tests/kernels/cross.cpp
//         build/aarch64/native/libcachegen_kernels.a -o build/aarch64/cross
//   qemu-aarch64 build/aarch64/cross
//
// With g++ and without the processor's name it is built for this machine, where `cross avx2` and
// `cross avx512` print the same too.
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <vector>

#include "block.h"
#include "dispatch.h"
#include "synthesis.h"

using namespace cachegen;

namespace {

uint64_t state = 12345, digest = 14695981039346656037ULL;

uint32_t next(uint32_t below) {
  state = state * 6364136223846793005ULL + 1442695040888963407ULL;
  return uint32_t(state >> 33) % below;
}

template <typename T>
void add(const std::vector<T>& values) {
  const auto* bytes = reinterpret_cast<const uint8_t*>(values.data());
  for (size_t i = 0; i < values.size() * sizeof(T); i++) digest = (digest ^ bytes[i]) * 1099511628211ULL;
}

// Two tables of some symbols each; symbols of a table are drawn from it. False if they do not come back.
bool code(size_t rows, size_t columns, size_t lanes, const Kernel& kernel) {
  std::vector<uint16_t> frequencies(512), words;
  for (size_t i = 0; i < 64; i++) frequencies[i] = 64;
  for (size_t i = 0; i < 16; i++) frequencies[256 + 100 + i] = i ? 16 : 4096 - 15 * 16;
  std::vector<int32_t> ids(columns);
  for (auto& id : ids) id = int32_t(next(2));
  const Block block{rows, columns, lanes, 64, 2, ids.data(), frequencies.data(), 2};
  std::vector<uint8_t> symbols(rows * columns), decoded(rows * columns);
  for (size_t i = 0; i < symbols.size(); i++)
    symbols[i] = uint8_t(ids[i % columns] ? 100 + (next(8) ? 0 : next(16)) : next(64));
  const EncodeResult coded = encode_block(block, symbols.data(), kernel, 2);
  std::vector<uint32_t> sizes;
  for (const auto& one : coded.substreams) {
    sizes.push_back(uint32_t(one.size()));
    words.insert(words.end(), one.begin(), one.end());
  }
  add(words);
  words.resize(words.size() + kPaddingWords);
  const DecodeResult result = decode_block(block, words.data(), words.size(), sizes.data(),
                                           sizes.size(), decoded.data(), kernel, 2);
  return coded.codable && result.status == Status::ok && decoded == symbols;
}

template <typename T>
void synthesise_into(Dtype dtype, const SynthesisKernel& kernel) {
  const size_t rows = 101, depth = 37, heads = 2, dim = 32, columns = heads * dim;
  std::vector<int16_t> coefficients(rows * depth), basis(depth * columns), predicted(4 * columns);
  for (auto* all : {&coefficients, &basis, &predicted})
    for (auto& one : *all) one = int16_t(int(next(201)) - 100);
  std::vector<int8_t> table(50 * 4);
  for (auto& one : table) one = int8_t(int(next(255)) - 127);
  std::vector<int64_t> ids(rows);
  for (auto& id : ids) id = next(60);
  std::vector<float> scales(columns), means(columns), cosines(rows * dim / 2), sines(rows * dim / 2);
  for (auto& one : scales) one = float(1 + next(1000)) / 65536;
  for (auto& one : means) one = float(next(1000)) / 256 - 2;
  for (size_t i = 0; i < cosines.size(); i++) {  // exact everywhere, unlike the library's sines
    cosines[i] = float(next(2049)) / 1024 - 1;
    sines[i] = float(next(2049)) / 1024 - 1;
  }
  std::vector<size_t> tokens(rows), depths(rows);
  std::vector<uint32_t> multipliers(rows);
  for (size_t row = 0; row < rows; row++) {
    tokens[row] = rows - 1 - row;
    depths[row] = next(depth + 1);
    multipliers[row] = 1 + next(63);
  }
  std::vector<T> out(rows * columns);
  synthesise({.rows = rows, .depth = depth, .columns = columns, .coefficients = coefficients.data(),
              .basis = basis.data(),
              .lookups = {{table.data(), 50, 4, ids.data(), rows, predicted.data()}},
              .scales = scales.data(), .means = means.data(),
              .planes = {{heads, dim, 0, 0}},
              .turns = {{cosines.data(), sines.data(), rows, dim / 2, false}},
              .num_tokens = rows, .tokens = tokens, .depths = depths, .multipliers = multipliers,
              .tail = depth, .dtype = dtype, .out = out.data(), .out_size = out.size()},
             kernel, 2);
  add(out);
}

}  // namespace

int main(int count, char** arguments) {
  const char* name = count > 1 ? arguments[1] : "portable";
  const Kernel& coder = find_kernel(name);
  for (size_t lanes : {8, 16, 32})
    for (size_t rows : {1, 63, 200})
      if (!code(rows, 3 * lanes, lanes, coder)) return std::puts("symbols do not come back"), 1;
  const SynthesisKernel& kernel = find_synthesis_kernel(name);
  synthesise_into<float>(Dtype::float32, kernel);
  synthesise_into<uint16_t>(Dtype::bfloat16, kernel);
  synthesise_into<uint16_t>(Dtype::float16, kernel);
  std::printf("%016llx\n", static_cast<unsigned long long>(digest));
}

// The contract that every instruction set implements: a tile of sums, and a head made of sums.
//
// Panels, buffers and threads are the caller's, so that no library code is compiled for an
// instruction set that the machine may not have.
#pragma once

#include <cstddef>
#include <cstdint>

namespace cachegen {

enum class Dtype : int { float32 = 0, bfloat16 = 1, float16 = 2 };
constexpr int kDtypes = 3;

// Two neighbours along the depth, which multiply-add instructions take at once.
struct Duo {
  int16_t first;
  int16_t second;
};

// Four neighbours along the depth: digits of coefficients, and bytes of a basis.
struct Quad {
  int8_t values[4];
};
struct Bytes {
  uint8_t values[4];
};

// What makes a tile of sums, modulo 2^32:
//     (((digits . bytes) - offsets) << shifts + rows . panel) x multipliers
// where `digits` are in base 256, the highest first. Panels are aligned to kPanelAlignment bytes.
struct Factors {
  const Duo* rows;   // (depth, rows of the tile)
  const Duo* panel;  // (depth, width)
  size_t depth;
  const uint32_t* multipliers;  // (rows of the tile)
  const Quad* digits = nullptr;  // (num_digits, byte_depth, rows of the tile)
  const Bytes* bytes = nullptr;  // (byte_depth, width)
  size_t num_digits = 0;
  size_t byte_depth = 0;               // 0 for kernels without bytes
  const uint32_t* offsets = nullptr;  // (rows of the tile)
  const uint32_t* shifts = nullptr;   // (width), below 32
};

// One head of a few rows. Its dimensions lie in packed order: the first of every turning pair, the
// second of every pair, then those that do not turn.
struct Head {
  size_t rows;
  size_t dim;
  size_t pairs;         // that turn; 0 if none do
  bool interleaved;     // how pairs lie in `out`
  const int32_t* sums;  // (rows, dim), rows `stride` apart
  size_t stride;
  const float* scales;  // (dim), means likewise
  const float* means;
  const float* cos;  // (rows, pairs), sin likewise
  const float* sin;
  const size_t* tokens;  // (rows), where each goes in `out`
  void* out;             // (tokens, dim)
};

// What is added to rows of sums: to each the row of a table at its place.
struct Addend {
  const int32_t* table;
  const uint32_t* places;
};

// Rows worked on at a time, few enough that their sums stay in the cache.
constexpr size_t kBlockRows = 48;
constexpr size_t kPanelAlignment = 64;

struct SynthesisKernel {
  size_t rows;   // of a tile; a divisor of kBlockRows
  size_t width;  // columns of a tile
  // Of four rows of a basis, a tile wide: their bytes. Kernels without it take no bytes.
  void (*pack_bytes)(const int16_t* const* rows, const uint32_t* shifts, Bytes* to);
  // The tile of sums, its rows `stride` apart.
  void (*multiply)(const Factors& factors, int32_t* sums, size_t stride);
  // Adds rows of tables to each of the rows of sums; those of sums and tables are `width` apart.
  void (*add)(int32_t* sums, size_t rows, size_t width, const Addend* addends, size_t count);
  void (*finish[kDtypes])(const Head& head);
};

extern const SynthesisKernel kSynthesisPortable;
extern const SynthesisKernel kSynthesisAvx2;
extern const SynthesisKernel kSynthesisAvx512;

}  // namespace cachegen

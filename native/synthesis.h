// Coefficients to planes: sums of products in integers, scaled, turned by position, rounded, and
// stored plane by plane. cachegen/kernels/synthesis.py is the definition.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "synthesis_kernel.h"

namespace cachegen {

// What the table's row of an id adds to the sums of a row; ids beyond the table add nothing.
struct Lookup {
  const int8_t* table;  // (entries, depth)
  size_t entries;
  size_t depth;
  const int64_t* ids;  // (rows)
  size_t rows;
  const int16_t* basis;  // (depth, columns)
};

// A rotation by the positions of the rows.
struct Turn {
  const float* cos;  // (rows, pairs), sin likewise
  const float* sin;
  size_t rows;
  size_t pairs;
  bool interleaved;  // pairs are neighbours; otherwise their halves are `pairs` apart
};

struct Plane {
  size_t heads;
  size_t dim;
  size_t offset;  // in `out`, in elements
  std::optional<size_t> turn;
};

struct Synthesis {
  size_t rows;
  size_t depth;    // coefficients of a row in memory
  size_t columns;  // heads * dim of all planes
  const int16_t* coefficients;  // (rows, depth)
  const int16_t* basis;         // (depth, columns)
  std::vector<Lookup> lookups;
  const float* scales;  // (columns), means likewise
  const float* means;
  std::vector<Plane> planes;
  std::vector<Turn> turns;
  size_t num_tokens;  // of a plane in `out`, which is (heads, num_tokens, dim)
  std::vector<size_t> tokens;  // where each row goes
  std::vector<size_t> depths;  // how many coefficients of each row count; the others are not read
  std::vector<uint32_t> multipliers;  // of the sum over coefficients of each row
  size_t tail;  // rows of the basis from here on are bytes, shifted by as much as a column needs
  Dtype dtype;
  void* out;
  size_t out_size;  // in elements
};

// Throws std::invalid_argument if arguments contradict each other or `out`, or the basis has no such tail.
void synthesise(const Synthesis& synthesis, const SynthesisKernel& kernel, size_t threads);

}  // namespace cachegen

// A whole block: checked, cut into substreams, its substreams run in lockstep and on threads.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "rans.h"

namespace cachegen {

struct Block {
  size_t rows;
  size_t columns;
  size_t lanes;
  size_t rows_per_substream;
  size_t groups_per_substream;
  const int32_t* table_ids;     // (columns)
  const uint16_t* frequencies;  // (tables, 256)
  size_t tables;
};

struct DecodeResult {
  size_t substream;  // the first damaged one, if status is not ok
  Status status;
};

struct EncodeResult {
  std::vector<std::vector<uint16_t>> substreams;
  bool codable;  // false: some symbol has frequency 0, and the substreams are incomplete
};

// All of these throw std::invalid_argument if arguments contradict each other.
size_t count_substreams(const Block& block);
DecodeResult decode_block(const Block& block, const uint16_t* words, size_t num_words,
                          const uint32_t* sizes, size_t num_sizes, uint8_t* symbols,
                          const Kernel& kernel, size_t threads);
EncodeResult encode_block(const Block& block, const uint8_t* symbols, const Kernel& kernel,
                          size_t threads);

}  // namespace cachegen

#include "tables.h"

#include <algorithm>
#include <stdexcept>

#include "rans.h"

namespace cachegen {
namespace {

constexpr size_t kAlphabet = 256;

std::vector<int32_t> distinct(const int32_t* table_ids, size_t columns) {
  std::vector<int32_t> used(table_ids, table_ids + columns);
  used.erase(std::unique(used.begin(), used.end()), used.end());
  std::sort(used.begin(), used.end());
  used.erase(std::unique(used.begin(), used.end()), used.end());
  return used;
}

void check_distribution(const uint16_t* frequencies) {
  uint32_t sum = 0, largest = 0;
  for (size_t symbol = 0; symbol < kAlphabet; symbol++) {
    sum += frequencies[symbol];
    largest = std::max<uint32_t>(largest, frequencies[symbol]);
  }
  if (sum != kProbabilityScale || largest >= kProbabilityScale) {
    throw std::invalid_argument("a table is not a distribution of at least two symbols");
  }
}

void fill_decode_table(const uint16_t* frequencies, uint32_t* entries) {
  for (uint32_t symbol = 0; symbol < kAlphabet; symbol++) {
    const uint32_t frequency = frequencies[symbol];
    const uint32_t first = frequency << kEntryFrequencyShift | symbol;
    for (uint32_t bias = 0; bias < frequency; bias++) {
      entries[bias] = first + (bias << kEntryBiasShift);
    }
    entries += frequency;
  }
}

void fill_encode_table(const uint16_t* frequencies, uint32_t* entries) {
  uint32_t start = 0;
  for (size_t symbol = 0; symbol < kAlphabet; symbol++) {
    entries[symbol] = uint32_t(frequencies[symbol]) << 16 | start;
    start += frequencies[symbol];
  }
}

template <typename Fill>
ColumnTables column_tables(const int32_t* table_ids, size_t columns, const uint16_t* frequencies,
                           size_t entries_per_table, Fill fill) {
  const std::vector<int32_t> used = distinct(table_ids, columns);
  ColumnTables tables;
  tables.entries.resize(used.size() * entries_per_table);
  for (size_t i = 0; i < used.size(); i++) {
    const uint16_t* table = frequencies + size_t(used[i]) * kAlphabet;
    check_distribution(table);
    fill(table, tables.entries.data() + i * entries_per_table);
  }
  tables.bases.resize(columns);
  for (size_t column = 0; column < columns; column++) {
    const auto found = std::lower_bound(used.begin(), used.end(), table_ids[column]);
    tables.bases[column] = uint32_t(size_t(found - used.begin()) * entries_per_table);
  }
  return tables;
}

}  // namespace

size_t count_distinct(const int32_t* table_ids, size_t columns) {
  return distinct(table_ids, columns).size();
}

ColumnTables decode_tables(const int32_t* table_ids, size_t columns, const uint16_t* frequencies) {
  return column_tables(table_ids, columns, frequencies, kProbabilityScale, fill_decode_table);
}

ColumnTables encode_tables(const int32_t* table_ids, size_t columns, const uint16_t* frequencies) {
  return column_tables(table_ids, columns, frequencies, kAlphabet, fill_encode_table);
}

}  // namespace cachegen

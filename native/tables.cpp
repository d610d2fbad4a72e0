#include "tables.h"

#include <algorithm>
#include <stdexcept>

#include "rans.h"

namespace cachegen {
namespace {

constexpr size_t kAlphabet = 256;

// The tables in use, in ascending order, and the place of every table among them.
struct Used {
  std::vector<size_t> tables;
  std::vector<uint32_t> places;
};

Used find_used(const int32_t* table_ids, size_t columns, size_t tables) {
  Used used{.tables = {}, .places = std::vector<uint32_t>(tables)};
  for (size_t column = 0; column < columns; column++) used.places[size_t(table_ids[column])] = 1;
  for (size_t table = 0; table < tables; table++) {
    if (!used.places[table]) continue;
    used.places[table] = uint32_t(used.tables.size());
    used.tables.push_back(table);
  }
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
                           size_t tables, size_t entries_per_table, Fill fill) {
  const Used used = find_used(table_ids, columns, tables);
  ColumnTables made;
  made.entries =
      std::make_unique_for_overwrite<uint32_t[]>(used.tables.size() * entries_per_table);
  for (size_t i = 0; i < used.tables.size(); i++) {
    const uint16_t* table = frequencies + used.tables[i] * kAlphabet;
    check_distribution(table);
    fill(table, made.entries.get() + i * entries_per_table);
  }
  made.bases.resize(columns);
  for (size_t column = 0; column < columns; column++) {
    made.bases[column] = used.places[size_t(table_ids[column])] * uint32_t(entries_per_table);
  }
  return made;
}

}  // namespace

size_t count_distinct(const int32_t* table_ids, size_t columns, size_t tables) {
  return find_used(table_ids, columns, tables).tables.size();
}

ColumnTables decode_tables(const int32_t* table_ids, size_t columns, const uint16_t* frequencies,
                           size_t tables) {
  return column_tables(table_ids, columns, frequencies, tables, kProbabilityScale,
                       fill_decode_table);
}

ColumnTables encode_tables(const int32_t* table_ids, size_t columns, const uint16_t* frequencies,
                           size_t tables) {
  return column_tables(table_ids, columns, frequencies, tables, kAlphabet, fill_encode_table);
}

}  // namespace cachegen

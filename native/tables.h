// Lookup tables made from frequencies, for the distinct tables that some columns use.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

namespace cachegen {

// Per table a run of entries (see rans.h), per column where the run of its table begins.
struct ColumnTables {
  std::unique_ptr<uint32_t[]> entries;
  std::vector<uint32_t> bases;
};

// Below, ids are of `tables` tables; the callers have checked that.

// How many different tables the columns use.
size_t count_distinct(const int32_t* table_ids, size_t columns, size_t tables);

// Both throw std::invalid_argument if a table is not a distribution of at least two symbols.
ColumnTables decode_tables(const int32_t* table_ids, size_t columns, const uint16_t* frequencies,
                           size_t tables);
ColumnTables encode_tables(const int32_t* table_ids, size_t columns, const uint16_t* frequencies,
                           size_t tables);

}  // namespace cachegen

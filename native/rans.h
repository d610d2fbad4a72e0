// The contract that every instruction set implements: run rANS over rectangles of symbols.
//
// A step codes one group of `lanes` symbols; a rectangle is rows x groups steps, row by row. The
// callers have checked everything about the arrays but the words, which are hostile.
#pragma once

#include <cstddef>
#include <cstdint>

namespace cachegen {

constexpr uint32_t kProbabilityBits = 12;
constexpr uint32_t kProbabilityScale = 1u << kProbabilityBits;
constexpr uint32_t kSlotMask = kProbabilityScale - 1;
constexpr uint32_t kLowestState = 1u << 16;
// A state of at least frequency << 20 would not fit 32 bits after coding, so it sheds a word.
constexpr uint32_t kRenormaliseBits = 32 - kProbabilityBits;
// Readable words after the last substream: a step loads as many from wherever it stands.
constexpr size_t kPaddingWords = 32;
// Writable words before an encoder's buffer: a wide store writes below its position.
constexpr size_t kSlackWords = 32;

// A decode table entry, one per slot: frequency << 20 | bias << 8 | symbol, where bias is the
// slot's distance from the symbol's first slot. The symbol is lowest because narrowing is free.
constexpr uint32_t kEntryFrequencyShift = 20;
constexpr uint32_t kEntryBiasShift = 8;

// An encode table entry, one per symbol: frequency << 16 | start. A frequency of 0 is uncodable.
constexpr uint32_t kEntryStartMask = 0xffff;

struct Shape {
  size_t rows;
  size_t groups;
  size_t stride;  // symbols from one row to the next
};

struct DecodeTables {
  const uint32_t* entries;
  const uint32_t* bases;  // per column of the rectangle: its table's first entry
};

struct DecodeStream {
  const uint16_t* words;
  const uint16_t* words_end;  // kPaddingWords readable words follow
  uint8_t* symbols;           // the rectangle's first symbol
  const uint32_t* bases;
};

enum class Status : int { ok = 0, short_stream = 1, low_state = 2, out_of_words = 3, bad_end = 4 };

// Streams of one shape that a kernel decodes in lockstep, so that their latencies overlap. Three
// hide nearly all of it; a fourth's tables push those of the others out of the L1 cache.
constexpr int kMaxInFlight = 3;

// Decodes `count` streams (1 to kMaxInFlight); ok only if every one of them is.
using DecodeFunction = Status (*)(const Shape& shape, const uint32_t* entries,
                                  const DecodeStream* streams, int count);

struct EncodeStream {
  const uint8_t* symbols;
  const uint32_t* bases;
  uint16_t* words_end;  // words grow downwards from here; the worst case and kSlackWords fit
  uint16_t* words;      // result: where they begin
};

// Encodes `count` streams; false if a symbol had frequency 0 (the words are then meaningless).
using EncodeFunction = bool (*)(const Shape& shape, const uint32_t* entries, EncodeStream* streams,
                                int count);

struct Kernel {
  const char* name;
  DecodeFunction decode[3];  // for 8, 16 and 32 lanes
  EncodeFunction encode[3];
};

extern const Kernel kPortable;
extern const Kernel kAvx2;
extern const Kernel kAvx512;

}  // namespace cachegen

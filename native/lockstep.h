// Streams coded in turn, a step each, so that the latencies of one hide behind the others.
//
// Everything unrolls by templates and not by loops: only then do GCC and Clang keep the streams'
// states in registers. Instruction sets instantiate these with types of their own, so that no
// code made for one of them can be linked into another.
#pragma once

#include <utility>

#include "rans.h"

namespace cachegen {

// body(0), ..., body(Count - 1), the numbers being constants.
template <int Count, typename Body>
[[gnu::always_inline]] inline void repeat(Body body) {
  [&]<int... I>(std::integer_sequence<int, I...>) __attribute__((always_inline)) {
    (body(std::integral_constant<int, I>{}), ...);
  }(std::make_integer_sequence<int, Count>{});
}

template <typename Decoding, int... I>
Status decode_together(std::integer_sequence<int, I...>, const Shape shape,
                       const uint32_t* entries, const DecodeStream* streams) {
  Decoding decoding[sizeof...(I)];
  Status status = Status::ok;
  const bool opened = (((status = decoding[I].open(streams[I])) == Status::ok) && ...);
  if (!opened) return status;
  for (size_t row = 0; row < shape.rows; row++) {
    const size_t first = row * shape.stride;
    for (size_t column = 0; column < shape.groups * Decoding::kLanes; column += Decoding::kLanes) {
      const bool enough = (decoding[I].step(entries, first + column, column) && ...);
      if (!enough) return Status::out_of_words;
    }
  }
  const bool closed = (((status = decoding[I].close()) == Status::ok) && ...);
  return closed ? Status::ok : status;
}

// The encoder walks the rows backwards; hardware does not foresee the next one if rows are long.
constexpr size_t kRowsAhead = 8;

template <typename Encoding, int... I>
bool encode_together(std::integer_sequence<int, I...>, const Shape shape, const uint32_t* entries,
                     EncodeStream* streams) {
  Encoding encoding[sizeof...(I)];
  (encoding[I].open(streams[I]), ...);
  for (size_t row = shape.rows; row-- > 0;) {
    const size_t first = row * shape.stride;
    const size_t ahead = (row < kRowsAhead ? 0 : row - kRowsAhead) * shape.stride;
    for (size_t column = shape.groups * Encoding::kLanes; column > 0;) {
      column -= Encoding::kLanes;
      (__builtin_prefetch(streams[I].symbols + ahead + column), ...);
      (encoding[I].step(entries, first + column, column), ...);
    }
  }
  return (encoding[I].close(streams[I]) && ...);
}

// Decodes streams `Width` at a time, then the rest together.
template <typename Decoding, int Width>
Status decode_streams(const Shape& shape, const uint32_t* entries, const DecodeStream* streams,
                      int count) {
  for (; count >= Width; count -= Width, streams += Width) {
    const auto together = std::make_integer_sequence<int, Width>{};
    const Status status = decode_together<Decoding>(together, shape, entries, streams);
    if (status != Status::ok) return status;
  }
  if constexpr (Width > 1) {
    return decode_streams<Decoding, Width - 1>(shape, entries, streams, count);
  }
  return Status::ok;
}

template <typename Encoding, int Width>
bool encode_streams(const Shape& shape, const uint32_t* entries, EncodeStream* streams,
                    int count) {
  for (; count >= Width; count -= Width, streams += Width) {
    const auto together = std::make_integer_sequence<int, Width>{};
    if (!encode_together<Encoding>(together, shape, entries, streams)) return false;
  }
  if constexpr (Width > 1) {
    return encode_streams<Encoding, Width - 1>(shape, entries, streams, count);
  }
  return true;
}

}  // namespace cachegen

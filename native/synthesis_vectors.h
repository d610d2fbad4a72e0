// What the instruction sets share: code over vectors of any width, which the compiler maps to those
// that the including file is compiled for. Everything here is private to that file.
#pragma once

#include <cstring>

#include "lockstep.h"
#include "synthesis_kernel.h"

namespace cachegen {
namespace {

template <typename T, int Lanes>
struct VectorOf {
  typedef T type __attribute__((vector_size(sizeof(T) * Lanes)));
};
template <typename T, int Lanes>
using Vector = typename VectorOf<T, Lanes>::type;

template <typename V>
inline V load(const void* from) {
  V vector;
  std::memcpy(&vector, from, sizeof vector);
  return vector;
}

template <typename V>
inline void store(void* to, V vector) {
  std::memcpy(to, &vector, sizeof vector);
}

template <typename To, typename From>
inline To bits_of(const From& from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &from, sizeof to);
  return to;
}

struct ToFloat32 {
  using Element = float;

  template <int Lanes>
  static Vector<float, Lanes> round(Vector<float, Lanes> x) {
    return x;
  }
};

struct ToBfloat16 {
  using Element = uint16_t;

  template <int Lanes>
  static Vector<uint16_t, Lanes> round(Vector<float, Lanes> x) {
    const auto bits = bits_of<Vector<uint32_t, Lanes>>(x);
    return __builtin_convertvector((bits + 0x7fff + ((bits >> 16) & 1)) >> 16,
                                   Vector<uint16_t, Lanes>);
  }
};

struct ToFloat16 {
  using Element = uint16_t;

  // Below the least normal number, adding 1/2 rounds to the steps of the subnormal ones.
  template <int Lanes>
  static Vector<uint16_t, Lanes> round(Vector<float, Lanes> x) {
    using Bits = Vector<uint32_t, Lanes>;
    constexpr uint32_t kLeastNormal = 113u << 23, kExponentShift = 112u << 23, kHalf = 126u << 23;
    const Vector<float, Lanes> limit = Vector<float, Lanes>{} + 65504.0f;
    x = x < limit ? x : limit;
    x = x > -limit ? x : -limit;
    const Bits bits = bits_of<Bits>(x);
    const Bits magnitude = bits & 0x7fffffff;
    const Bits normal = (magnitude - kExponentShift + 0xfff + ((magnitude >> 13) & 1)) >> 13;
    const Bits subnormal = bits_of<Bits>(bits_of<Vector<float, Lanes>>(magnitude) + 0.5f) - kHalf;
    const Bits rounded = magnitude < kLeastNormal ? subnormal : normal;
    return __builtin_convertvector(rounded | (bits >> 16 & 0x8000), Vector<uint16_t, Lanes>);
  }
};

// Elements go `step` apart.
template <int Lanes, typename To>
inline void store_rounded(typename To::Element* out, Vector<float, Lanes> x, size_t step) {
  const auto rounded = To::template round<Lanes>(x);
  if (step == 1) {
    store(out, rounded);
  } else {
    for (int lane = 0; lane < Lanes; lane++) out[lane * step] = rounded[lane];
  }
}

// `Lanes` columns of a head, from place `first` in packed order.
template <int Lanes>
struct Columns {
  using Floats = Vector<float, Lanes>;

  Columns(const Head& head, size_t first)
      : sums(head.sums + first),
        stride(head.stride),
        scale(load<Floats>(head.scales + first)),
        mean(load<Floats>(head.means + first)) {}

  Floats row(size_t row) const {
    const auto sum = load<Vector<int32_t, Lanes>>(sums + row * stride);
    return __builtin_convertvector(sum, Floats) * scale + mean;
  }

  const int32_t* sums;
  size_t stride;
  Floats scale;
  Floats mean;
};

template <int Lanes, typename To>
void finish_straight(const Head head, size_t first) {
  const Columns<Lanes> columns(head, first);
  auto* out = static_cast<typename To::Element*>(head.out) + first;
  for (size_t row = 0; row < head.rows; row++) {
    store_rounded<Lanes, To>(out + head.tokens[row] * head.dim, columns.row(row), 1);
  }
}

template <int Lanes, typename To>
void finish_turned(const Head head, size_t first) {
  const Columns<Lanes> columns_a(head, first), columns_b(head, head.pairs + first);
  const size_t step = head.interleaved ? 2 : 1;
  const size_t apart = head.interleaved ? 1 : head.pairs;
  auto* first_out = static_cast<typename To::Element*>(head.out) + step * first;
  for (size_t row = 0; row < head.rows; row++) {
    auto* out = first_out + head.tokens[row] * head.dim;
    const auto cos = load<Vector<float, Lanes>>(head.cos + row * head.pairs + first);
    const auto sin = load<Vector<float, Lanes>>(head.sin + row * head.pairs + first);
    const auto a = columns_a.row(row), b = columns_b.row(row);
    store_rounded<Lanes, To>(out, a * cos - b * sin, step);
    store_rounded<Lanes, To>(out + apart, b * cos + a * sin, step);
  }
}

template <int Lanes, typename To>
void finish(const Head& head) {
  size_t first = 0;
  for (; first + Lanes <= head.pairs; first += Lanes) finish_turned<Lanes, To>(head, first);
  for (; first < head.pairs; first++) finish_turned<1, To>(head, first);
  first = 2 * head.pairs;
  for (; first + Lanes <= head.dim; first += Lanes) finish_straight<Lanes, To>(head, first);
  for (; first < head.dim; first++) finish_straight<1, To>(head, first);
}

// Four rows of a basis, shifted, and made unsigned.
template <typename Set>
void pack_bytes(const int16_t* const* rows, const uint32_t* shifts, Bytes* to) {
  using Ints = Vector<int32_t, Set::kLanes>;
  for (int half = 0; half < 2 * Set::kLanes; half += Set::kLanes) {
    const Ints own_shifts = load<Ints>(shifts + half);
    Ints bytes = Ints{} + int32_t(0x80808080);
    repeat<4>([&](auto i) __attribute__((always_inline)) {
      const auto values = load<Vector<int16_t, Set::kLanes>>(rows[i] + half);
      const Ints shifted = __builtin_convertvector(values, Ints) >> own_shifts;
      bytes ^= (shifted & 0xff) << (8 * i);
    });
    store(to + half, bytes);
  }
}

template <typename Set>
constexpr auto pack_bytes_of() {
  if constexpr (Set::kBytes) {
    return pack_bytes<Set>;
  } else {
    return nullptr;
  }
}

// Adds to a tile two vectors wide what Set::dot and its like make of the pairs or quads of rows and
// of a panel.
template <typename Set, typename Dot, typename Row, typename Entry>
inline __attribute__((always_inline)) void accumulate(
    Vector<int32_t, Set::kLanes>* left, Vector<int32_t, Set::kLanes>* right, const Row* rows,
    const Entry* panel, size_t depth, Dot dot) {
  using Ints = Vector<int32_t, Set::kLanes>;
  for (size_t k = 0; k < depth; k++, rows += Set::kRows, panel += 2 * Set::kLanes) {
    const Ints left_entries = load<Ints>(panel), right_entries = load<Ints>(panel + Set::kLanes);
    repeat<Set::kRows>([&](auto row) __attribute__((always_inline)) {
      const Ints factor = Ints{} + bits_of<int32_t>(rows[row]);
      left[row] = dot(left[row], factor, left_entries);
      right[row] = dot(right[row], factor, right_entries);
    });
  }
}

// A tile two vectors wide, held in registers. Set::dot adds the products of the duos in two vectors
// to a third, Set::dot_bytes those of quads and bytes. Unsigned where sums wrap.
template <typename Set>
void multiply(const Factors& factors, int32_t* sums, size_t stride) {
  using Ints = Vector<int32_t, Set::kLanes>;
  using Words = Vector<uint32_t, Set::kLanes>;
  Ints left[Set::kRows] = {}, right[Set::kRows] = {};
  if constexpr (Set::kBytes) {
    const Quad* digits = factors.digits;
    for (size_t digit = 0; digit < factors.num_digits; digit++) {
      if (digit) {
        repeat<Set::kRows>([&](auto row) __attribute__((always_inline)) {
          left[row] = Ints(Words(left[row]) << 8);
          right[row] = Ints(Words(right[row]) << 8);
        });
      }
      accumulate<Set>(left, right, digits, factors.bytes, factors.byte_depth, Set::dot_bytes);
      digits += factors.byte_depth * Set::kRows;
    }
    if (factors.byte_depth) {
      const Words left_shifts = load<Words>(factors.shifts);
      const Words right_shifts = load<Words>(factors.shifts + Set::kLanes);
      repeat<Set::kRows>([&](auto row) __attribute__((always_inline)) {
        const uint32_t offset = factors.offsets[row];
        left[row] = Ints((Words(left[row]) - offset) << left_shifts);
        right[row] = Ints((Words(right[row]) - offset) << right_shifts);
      });
    }
  }
  accumulate<Set>(left, right, factors.rows, factors.panel, factors.depth, Set::dot);
  repeat<Set::kRows>([&](auto row) __attribute__((always_inline)) {
    const uint32_t multiplier = factors.multipliers[row];
    store(sums + row * stride, Words(left[row]) * multiplier);
    store(sums + row * stride + Set::kLanes, Words(right[row]) * multiplier);
  });
}

// Unsigned, since sums wrap.
template <int Lanes>
void add_rows(int32_t* sums, size_t rows, size_t width, const Addend* addends, size_t count) {
  using Ints = Vector<uint32_t, Lanes>;
  for (size_t row = 0; row < rows; row++, sums += width) {
    for (const Addend* one = addends; one < addends + count; one++) {
      const int32_t* own = one->table + one->places[row] * width;
      for (size_t column = 0; column < width; column += Lanes) {
        store(sums + column, load<Ints>(sums + column) + load<Ints>(own + column));
      }
    }
  }
}

template <typename Set>
constexpr SynthesisKernel kSynthesis = {
    Set::kRows,
    2 * Set::kLanes,
    pack_bytes_of<Set>(),
    multiply<Set>,
    add_rows<Set::kLanes>,
    {finish<Set::kLanes, ToFloat32>, finish<Set::kLanes, ToBfloat16>,
     finish<Set::kLanes, ToFloat16>}};

}  // namespace
}  // namespace cachegen

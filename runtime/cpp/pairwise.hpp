// numpy's sum of a contiguous row: eight strands of it, halves beyond 128; rounded as numpy rounds.
#pragma once

#include <algorithm>
#include <cstddef>

namespace foveola {

template <typename Number>
Number pairwise(const Number* values, std::size_t count) {
  if (count < 8) {
    Number sum = Number(-0.0);
    for (std::size_t i = 0; i < count; ++i) sum += values[i];
    return sum;
  }
  if (count <= 128) {
    Number strand[8];
    std::copy_n(values, 8, strand);
    std::size_t i = 8;
    for (; i < count - count % 8; i += 8)
      for (std::size_t j = 0; j < 8; ++j) strand[j] += values[i + j];
    Number sum =
        ((strand[0] + strand[1]) + (strand[2] + strand[3])) + ((strand[4] + strand[5]) + (strand[6] + strand[7]));
    for (; i < count; ++i) sum += values[i];
    return sum;
  }
  std::size_t half = count / 2;
  half -= half % 8;
  return pairwise(values, half) + pairwise(values + half, count - half);
}

}  // namespace foveola

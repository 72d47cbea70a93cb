// Pillow's resampling, number for number: a filter that widens on reduction, columns first, then rows.
//
// 8 bits: weights of 22 bits after the point, sums in 32-bit integers, rounded once a pass. 16 bits: sums of doubles,
// in the order of the pixels. Means of whole blocks: Pillow's `reduce` with a 24-bit reciprocal for 8 bits, exact
// quotients for 16 (runtime/reduce.py).
#include <algorithm>
#include <cmath>
#include <iterator>

#include "foveola.hpp"

namespace foveola {
namespace {

constexpr int PRECISION = 32 - 8 - 2;

struct Taps {
  std::vector<int> first, count;
  std::vector<double> weight;
  std::size_t most = 0;
};

double value_at(Filter filter, double x) {
  if (filter == Filter::box) return x > -0.5 && x <= 0.5 ? 1.0 : 0.0;
  x = std::fabs(x);
  return x < 1.0 ? 1.0 - x : 0.0;
}

// Of `size` samples those before `end`, which may lie within one, become `wanted`.
Taps taps_of(int size, float end, int wanted, Filter filter) {
  const double scale = static_cast<double>(end) / wanted, widened = std::max(scale, 1.0);
  const double support = (filter == Filter::box ? 0.5 : 1.0) * widened, step = 1.0 / widened;
  Taps taps;
  taps.most = static_cast<std::size_t>(std::ceil(support)) * 2 + 1;
  taps.weight.assign(taps.most * static_cast<std::size_t>(wanted), 0.0);
  for (int i = 0; i < wanted; ++i) {
    const double centre = (i + 0.5) * scale;
    const int first = std::max(0, static_cast<int>(centre - support + 0.5));
    const int count = std::min(size, static_cast<int>(centre + support + 0.5)) - first;
    double* weight = &taps.weight[taps.most * static_cast<std::size_t>(i)];
    double sum = 0;
    for (int x = 0; x < count; ++x) sum += weight[x] = value_at(filter, (x + first - centre + 0.5) * step);
    for (int x = 0; x < count && sum != 0.0; ++x) weight[x] /= sum;
    taps.first.push_back(first);
    taps.count.push_back(count);
  }
  return taps;
}

// The sum of one output sample in each of the two kinds of number.
struct Sum8 {
  using Pixel = std::uint8_t;
  using Weight = std::int32_t;
  using Value = std::int32_t;
  static constexpr Value START = 1 << (PRECISION - 1);
  static Weight weight(double w) { return static_cast<Weight>(0.5 + w * (1 << PRECISION)); }
  static Pixel rounded(Value v) { return static_cast<Pixel>(std::clamp(v >> PRECISION, 0, 255)); }
};

struct Sum16 {
  using Pixel = std::uint16_t;
  using Weight = double;
  using Value = double;
  static constexpr Value START = 0;
  static Weight weight(double w) { return w; }
  static Pixel rounded(Value v) { return static_cast<Pixel>(std::clamp(static_cast<int>(v + 0.5), 0, 65535)); }
};

// One pass: `size` samples become `wanted`, `stride` apart; `lines` such runs lie `pitch` apart, each `lanes` wide.
template <class S>
std::vector<typename S::Pixel> pass(const std::vector<typename S::Pixel>& in, const Taps& taps, std::size_t size,
                                    std::size_t lines, std::size_t lanes) {
  std::vector<typename S::Weight> weights;
  std::transform(taps.weight.begin(), taps.weight.end(), std::back_inserter(weights), S::weight);
  const std::size_t wanted = taps.first.size();
  std::vector<typename S::Pixel> out(lines * wanted * lanes);
  std::vector<typename S::Value> sums(lanes);
  for (std::size_t line = 0; line < lines; ++line)
    for (std::size_t i = 0; i < wanted; ++i) {
      std::fill(sums.begin(), sums.end(), S::START);
      const auto* weight = &weights[i * taps.most];
      const auto* from = &in[(line * size + static_cast<std::size_t>(taps.first[i])) * lanes];
      for (int x = 0; x < taps.count[i]; ++x, from += lanes)
        for (std::size_t lane = 0; lane < lanes; ++lane) sums[lane] += from[lane] * weight[x];
      auto* to = &out[(line * wanted + i) * lanes];
      for (std::size_t lane = 0; lane < lanes; ++lane) to[lane] = S::rounded(sums[lane]);
    }
  return out;
}

template <class S>
std::vector<typename S::Pixel> both(const std::vector<typename S::Pixel>& in, const Picture& old, const Picture& now,
                                    float right, float bottom, Filter filter) {
  const std::size_t h = static_cast<std::size_t>(old.height), channels = static_cast<std::size_t>(old.channels);
  std::vector<typename S::Pixel> samples = in;
  if (now.width != old.width || right != static_cast<float>(now.width))
    samples = pass<S>(samples, taps_of(old.width, right, now.width, filter), static_cast<std::size_t>(old.width), h,
                      channels);
  if (now.height != old.height || bottom != static_cast<float>(now.height))
    // A column is one run whose lanes are all the columns.
    samples = pass<S>(samples, taps_of(old.height, bottom, now.height, filter), h, 1,
                      static_cast<std::size_t>(now.width) * channels);
  return samples;
}

// 2^32 / (256 n) as Pillow computes it, in float: the mean of n bytes is sum * this >> 24.
std::uint32_t reciprocal(std::uint32_t n) {
  return static_cast<std::uint32_t>(4294967296.0f / static_cast<float>(256 * n));
}

// The picture up to the edges `right` and `bottom`.
Picture resize_part(const Picture& picture, int width, int height, float right, float bottom, Filter filter) {
  Picture small;
  small.width = width;
  small.height = height;
  small.channels = picture.channels;
  if (picture.deep())
    small.words = both<Sum16>(picture.words, picture, small, right, bottom, filter);
  else
    small.bytes = both<Sum8>(picture.bytes, picture, small, right, bottom, filter);
  return small;
}

// The mean of n samples of each kind.
std::uint8_t mean_of(std::uint8_t, std::uint64_t sum, std::uint32_t n) {
  return static_cast<std::uint8_t>(static_cast<std::uint32_t>(sum + n / 2) * reciprocal(n) >> 24);
}

std::uint16_t mean_of(std::uint16_t, std::uint64_t sum, std::uint32_t n) {
  return static_cast<std::uint16_t>((sum + n / 2) / n);
}

template <class T>
std::vector<T> blocks_of(const std::vector<T>& in, const Picture& old, const Picture& now, int across, int down) {
  std::vector<T> out;
  if (in.empty()) return out;
  out.reserve(now.pixels() * static_cast<std::size_t>(now.channels));
  const auto channels = static_cast<std::size_t>(old.channels), width = static_cast<std::size_t>(old.width);
  for (int y = 0; y < now.height; ++y)
    for (int x = 0; x < now.width; ++x)
      for (std::size_t c = 0; c < channels; ++c) {
        const int bottom = std::min((y + 1) * down, old.height), right = std::min((x + 1) * across, old.width);
        std::uint64_t sum = 0;
        for (int row = y * down; row < bottom; ++row)
          for (int column = x * across; column < right; ++column)
            sum += in[(static_cast<std::size_t>(row) * width + static_cast<std::size_t>(column)) * channels + c];
        out.push_back(mean_of(T{}, sum, static_cast<std::uint32_t>((bottom - y * down) * (right - x * across))));
      }
  return out;
}

}  // namespace

Picture resize(const Picture& picture, int width, int height, Filter filter) {
  return resize_part(picture, width, height, static_cast<float>(picture.width), static_cast<float>(picture.height),
                     filter);
}

Picture reduce(const Picture& picture, int across, int down) {
  if (across == 1 && down == 1) return picture;
  Picture small;
  small.width = (picture.width + across - 1) / across;
  small.height = (picture.height + down - 1) / down;
  small.channels = picture.channels;
  small.bytes = blocks_of(picture.bytes, picture, small, across, down);
  small.words = blocks_of(picture.words, picture, small, across, down);
  return small;
}

// Averages of whole blocks first, as many as leave at least twice the size asked for: Pillow's `reducing_gap`.
Picture resize_by_blocks(const Picture& picture, int width, int height) {
  constexpr double GAP = 2.0;
  const int across = std::max(1, static_cast<int>(static_cast<double>(picture.width) / width / GAP));
  const int down = std::max(1, static_cast<int>(static_cast<double>(picture.height) / height / GAP));
  const auto right = static_cast<float>(static_cast<double>(picture.width) / across);
  const auto bottom = static_cast<float>(static_cast<double>(picture.height) / down);
  return resize_part(reduce(picture, across, down), width, height, right, bottom, Filter::bilinear);
}

Picture to_grey(const Picture& picture) {
  if (picture.channels == 1) return picture;
  Picture grey;
  grey.width = picture.width;
  grey.height = picture.height;
  grey.bytes.resize(picture.pixels());
  for (std::size_t i = 0; i < grey.bytes.size(); ++i) {
    const std::uint8_t* p = &picture.bytes[3 * i];
    grey.bytes[i] = static_cast<std::uint8_t>((p[0] * 19595u + p[1] * 38470u + p[2] * 7471u + 0x8000u) >> 16);
  }
  return grey;
}

}  // namespace foveola

// From a picture to the network's input, as runtime/image.py prepares it: crop, resize, place, window.
#include <algorithm>
#include <cmath>
#include <limits>

#include "foveola.hpp"

namespace foveola {
namespace {

// The names and values of runtime/image.py.
constexpr int FOV_SIDE = 256;
constexpr double FOV_LEVEL = 0.15, FOV_FLOOR = 8.0 / 255, FOV_LINE = 0.02, FOV_LEAST = 0.25;

struct Rectangle {
  int x0, y0, x1, y1;
};

// The brightest channel of each pixel of the thumbnail.
std::vector<std::uint32_t> light_of(const Picture& small) {
  std::vector<std::uint32_t> light(small.words.begin(), small.words.end());
  if (!light.empty()) return light;
  light.resize(small.pixels());
  for (std::size_t i = 0; i < light.size(); ++i)
    for (int c = 0; c < small.channels; ++c)
      light[i] = std::max<std::uint32_t>(
          light[i], small.bytes[i * static_cast<std::size_t>(small.channels) + static_cast<std::size_t>(c)]);
  return light;
}

// numpy.percentile(values, 99, method="nearest"): halves go to the even rank.
std::uint32_t percentile_99(std::vector<std::uint32_t> values) {
  const auto rank = static_cast<std::ptrdiff_t>(std::nearbyint(static_cast<double>(values.size() - 1) * 0.99));
  std::nth_element(values.begin(), values.begin() + rank, values.end());
  return values[static_cast<std::size_t>(rank)];
}

// The first longest run of lit lines, `stride` apart.
std::pair<int, int> longest_run(const std::vector<bool>& lit) {
  int best = 0, end_of_best = 0, run = 0;
  for (std::size_t i = 0; i < lit.size(); ++i) {
    run = lit[i] ? run + 1 : 0;
    if (run > best) {
      best = run;
      end_of_best = static_cast<int>(i) + 1;
    }
  }
  return {end_of_best - best, end_of_best};
}

Rectangle field_of_view(const Picture& picture) {
  const int step = (std::max(picture.width, picture.height) + FOV_SIDE - 1) / FOV_SIDE;
  const Picture small = picture.deep() ? resize(picture, (picture.width + step - 1) / step,
                                                (picture.height + step - 1) / step, Filter::box)
                                       : reduce(picture, step, step);
  const std::vector<std::uint32_t> light = light_of(small);
  const double full = small.deep() ? 65535 : 255;
  const double level = std::max(FOV_FLOOR * full, FOV_LEVEL * percentile_99(light));
  std::vector<int> columns(static_cast<std::size_t>(small.width)), rows(static_cast<std::size_t>(small.height));
  for (std::size_t i = 0; i < light.size(); ++i) {
    const bool lit = light[i] > level;
    columns[i % columns.size()] += lit;
    rows[i / columns.size()] += lit;
  }
  const auto lines = [](const std::vector<int>& counts, int length) {
    std::vector<bool> lit;
    for (int count : counts) lit.push_back(static_cast<double>(count) / length >= FOV_LINE);
    return longest_run(lit);
  };
  const auto [left, right] = lines(columns, small.height);
  const auto [top, bottom] = lines(rows, small.width);
  // One thumbnail pixel more on each side, so that the rim itself is inside.
  const Rectangle found{std::max(0, (left - 1) * step), std::max(0, (top - 1) * step),
                        std::min(picture.width, (right + 1) * step), std::min(picture.height, (bottom + 1) * step)};
  if (found.x1 - found.x0 < FOV_LEAST * picture.width || found.y1 - found.y0 < FOV_LEAST * picture.height)
    return {0, 0, picture.width, picture.height};
  return found;
}

template <class T>
std::vector<T> cut(const std::vector<T>& from, const Picture& picture, const Rectangle& crop) {
  std::vector<T> to;
  if (from.empty()) return to;
  const auto channels = static_cast<std::size_t>(picture.channels), width = static_cast<std::size_t>(picture.width);
  const auto length = static_cast<std::ptrdiff_t>(static_cast<std::size_t>(crop.x1 - crop.x0) * channels);
  for (int y = crop.y0; y < crop.y1; ++y) {
    const auto start =
        from.begin() + static_cast<std::ptrdiff_t>(
                           (static_cast<std::size_t>(y) * width + static_cast<std::size_t>(crop.x0)) * channels);
    to.insert(to.end(), start, start + length);
  }
  return to;
}

Geometry fit(const Picture& picture, const Rectangle& crop, const InputSpec& spec) {
  const int across = crop.x1 - crop.x0, down = crop.y1 - crop.y0;
  int width = spec.width, height = spec.height;
  if (spec.pad) {
    const double scale = std::min(static_cast<double>(spec.width) / across, static_cast<double>(spec.height) / down);
    // Halves round up, not to even: a growing picture must not shrink its content.
    width = std::min(spec.width, std::max(1, static_cast<int>(std::floor(across * scale + 0.5))));
    height = std::min(spec.height, std::max(1, static_cast<int>(std::floor(down * scale + 0.5))));
  }
  Geometry g{picture.height,
             picture.width,
             crop.x0,
             crop.y0,
             crop.x1,
             crop.y1,
             static_cast<double>(width) / across,
             static_cast<double>(height) / down,
             (spec.width - width) / 2,
             (spec.height - height) / 2,
             0,
             0};
  g.content_width = static_cast<int>(std::nearbyint(across * g.scale_x));
  g.content_height = static_cast<int>(std::nearbyint(down * g.scale_y));
  return g;
}

// How a sample becomes 0..1: (sample - low) / range, clipped where it is a percentile window.
struct Window {
  float low = 0, range = 1;
  bool clip = false;
  float operator()(std::uint32_t sample) const {
    const float share = (static_cast<float>(sample) - low) / range;
    return clip ? std::min(std::max(share, 0.0f), 1.0f) : share;
  }
};

template <class T>
Window window_of(const std::vector<T>& samples, const InputSpec& spec) {
  Window window;
  window.range = static_cast<float>(std::numeric_limits<T>::max());
  if (!spec.percentile) return window;
  std::vector<std::size_t> upto(std::size_t{std::numeric_limits<T>::max()} + 1);
  for (T sample : samples) ++upto[sample];
  for (std::size_t i = 1; i < upto.size(); ++i) upto[i] += upto[i - 1];
  const auto value_at = [&](double percent) {
    const double rank = std::max(1.0, std::ceil(percent / 100 * static_cast<double>(samples.size())));
    std::size_t value = 0;
    while (value + 1 < upto.size() && static_cast<double>(upto[value]) < rank) ++value;
    return static_cast<std::int64_t>(value);
  };
  const std::int64_t low = value_at(spec.low), high = value_at(spec.high);
  window.low = static_cast<float>(low);
  window.range = static_cast<float>(std::max<std::int64_t>(high - low, 1));
  window.clip = true;
  return window;
}

template <class T>
void place(const std::vector<T>& samples, int channels, const Geometry& g, const InputSpec& spec,
           std::vector<float>& x_CHW) {
  const Window window = window_of(samples, spec);
  const auto plane = static_cast<std::size_t>(spec.height) * static_cast<std::size_t>(spec.width);
  const auto width = static_cast<std::size_t>(spec.width), step = static_cast<std::size_t>(channels);
  std::size_t at = 0;
  for (int y = 0; y < g.content_height; ++y)
    for (int x = 0; x < g.content_width; ++x, at += step)
      for (int c = 0; c < spec.channels; ++c)  // grey is repeated
        x_CHW[static_cast<std::size_t>(c) * plane + static_cast<std::size_t>(g.pad_y + y) * width +
              static_cast<std::size_t>(g.pad_x + x)] =
            window(samples[at + (channels == 1 ? 0 : static_cast<std::size_t>(c))]);
}

}  // namespace

Prepared prepare(const Picture& image, const InputSpec& spec) {
  Picture picture = spec.channels == 1 ? to_grey(image) : image;
  const Rectangle crop = spec.fov ? field_of_view(picture) : Rectangle{0, 0, picture.width, picture.height};
  const Geometry g = fit(picture, crop, spec);
  Picture inside = picture;
  inside.width = crop.x1 - crop.x0;
  inside.height = crop.y1 - crop.y0;
  inside.bytes = cut(picture.bytes, picture, crop);
  inside.words = cut(picture.words, picture, crop);
  const Picture small = spec.blocks ? resize_by_blocks(inside, g.content_width, g.content_height)
                                    : resize(inside, g.content_width, g.content_height, Filter::bilinear);
  Prepared prepared{std::vector<float>(static_cast<std::size_t>(spec.channels) * static_cast<std::size_t>(spec.height) *
                                       static_cast<std::size_t>(spec.width)),
                    g};
  if (small.deep())
    place(small.words, 1, g, spec, prepared.x_CHW);
  else
    place(small.bytes, small.channels, g, spec, prepared.x_CHW);
  return prepared;
}

}  // namespace foveola

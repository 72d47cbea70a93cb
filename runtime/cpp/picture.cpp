// A file's bytes as one upright picture, as runtime/image.py reads them; see png.cpp and jpeg.cpp.
//
// Laws: a picture that cannot be read whole and without doubt is refused; the first bytes choose the decoder; sizes are
// held against the limits before anything is allocated. Besides PNG and JPEG, raw PGM and PPM (Netpbm) are read, whose
// pixels need no decoder; TIFF, BMP and DICOM are not.
#include <openssl/sha.h>

#include <algorithm>
#include <cctype>

#include "foveola.hpp"

namespace foveola {
namespace {

constexpr std::uint64_t MAX_PIXELS = std::uint64_t{64} << 20, MAX_SIDE = 1 << 15;

// The next number of a Netpbm header, after blanks and comments.
std::uint64_t next_number(const Bytes& data, std::size_t& at, const std::string& place) {
  while (at < data.size() && (std::isspace(static_cast<unsigned char>(data[at])) || data[at] == '#')) {
    if (data[at] == '#')
      while (at < data.size() && data[at] != '\n') ++at;
    else
      ++at;
  }
  std::uint64_t value = 0;
  const std::size_t start = at;
  for (; at < data.size() && std::isdigit(static_cast<unsigned char>(data[at])) && at - start < 9; ++at)
    value = value * 10 + static_cast<std::uint64_t>(data[at] - '0');
  if (at == start) throw Error(place, "truncated or broken (a number is missing)", "export the file again");
  return value;
}

Picture decode_netpbm(const Bytes& data, const std::string& place) {
  std::size_t at = 2;
  const std::uint64_t width = next_number(data, at, place), height = next_number(data, at, place);
  const std::uint64_t most = next_number(data, at, place);
  check_size(width, height, place);
  Picture picture;
  picture.width = static_cast<int>(width);
  picture.height = static_cast<int>(height);
  picture.channels = data[1] == '6' ? 3 : 1;
  const bool deep = most == 65535;
  if (!deep && most != 255) throw Error(place, "a white of " + std::to_string(most), "export it with 255 or 65535");
  const std::size_t samples = picture.pixels() * static_cast<std::size_t>(picture.channels);
  if (at >= data.size() || data.size() - at - 1 != samples * (deep ? 2 : 1))
    throw Error(place, "truncated or broken (another number of pixels)", "copy or export the file again");
  const auto* source = reinterpret_cast<const unsigned char*>(data.data()) + at + 1;
  if (deep && picture.channels == 1) {
    picture.words.resize(samples);
    for (std::size_t i = 0; i < samples; ++i)
      picture.words[i] = static_cast<std::uint16_t>(source[2 * i] << 8 | source[2 * i + 1]);
  } else {  // colour of 16 bits a channel keeps its upper 8
    picture.bytes.resize(samples);
    for (std::size_t i = 0; i < samples; ++i) picture.bytes[i] = source[deep ? 2 * i : i];
  }
  return picture;
}

template <class T>
std::vector<T> turned(const std::vector<T>& from, const Picture& old, int orientation) {
  const std::size_t w = static_cast<std::size_t>(old.width), h = static_cast<std::size_t>(old.height);
  const std::size_t channels = static_cast<std::size_t>(old.channels);
  std::vector<T> to(from.size());
  if (from.empty()) return to;
  for (std::size_t y = 0; y < h; ++y)
    for (std::size_t x = 0; x < w; ++x) {
      const std::size_t target = orientation == 3   ? (h - 1 - y) * w + (w - 1 - x)
                                 : orientation == 6 ? x * h + (h - 1 - y)
                                                    : (w - 1 - x) * h + y;
      std::copy_n(&from[(y * w + x) * channels], channels, &to[target * channels]);
    }
  return to;
}

}  // namespace

void check_size(std::uint64_t width, std::uint64_t height, const std::string& place) {
  const std::string size = std::to_string(width) + " x " + std::to_string(height) + " pixels";
  if (width < 1 || height < 1) throw Error(place, "the picture has " + size);
  if (std::max(width, height) > MAX_SIDE || width * height > MAX_PIXELS)
    throw Error(
        place, "absurd size of " + size,
        "at most " + std::to_string(MAX_SIDE) + " a side and " + std::to_string(MAX_PIXELS) + " in all are read");
}

Picture upright(Picture picture, int orientation, const std::string& place) {
  if (orientation == 2 || orientation == 4 || orientation == 5 || orientation == 7)
    throw Error(place, "EXIF orientation " + std::to_string(orientation) + " mirrors the picture",
                "save it upright and unmirrored");
  if (orientation != 3 && orientation != 6 && orientation != 8) return picture;
  Picture straight = picture;
  straight.bytes = turned(picture.bytes, picture, orientation);
  straight.words = turned(picture.words, picture, orientation);
  if (orientation != 3) std::swap(straight.width, straight.height);
  return straight;
}

Picture decode_picture(const Bytes& data, const std::string& place) {
  if (data.empty()) throw Error(place, "the file is empty", "copy it again");
  if (data.size() > MAX_FILE_BYTES)
    throw Error(place,
                std::to_string(data.size()) + " bytes, more than the " + std::to_string(MAX_FILE_BYTES) + " allowed");
  const auto begins = [&](const Bytes& magic) { return data.compare(0, magic.size(), magic) == 0; };
  if (begins("\xff\xd8\xff")) return decode_jpeg(data, place);
  if (begins("\x89PNG\r\n\x1a\n")) return decode_png(data, place);
  if (data.size() > 2 && (begins("P5") || begins("P6"))) return decode_netpbm(data, place);
  const bool dicom = data.size() > 132 && data.compare(128, 4, "DICM") == 0;
  throw Error(place, std::string("not a PNG, JPEG, PGM or PPM file") + (dicom ? " (a DICOM file)" : ""),
              "export it in one of these formats");
}

Bytes pixel_digest(const Picture& picture) {
  std::string header = "(" + std::to_string(picture.height) + ", " + std::to_string(picture.width);
  header += picture.channels == 3 ? ", 3) |u1 " : picture.deep() ? ") <u2 " : ") |u1 ";
  Bytes data = header;
  data.append(reinterpret_cast<const char*>(picture.bytes.data()), picture.bytes.size());
  for (std::uint16_t word : picture.words) {
    data += static_cast<char>(word & 0xff);
    data += static_cast<char>(word >> 8);
  }
  unsigned char digest[SHA256_DIGEST_LENGTH];
  SHA256(reinterpret_cast<const unsigned char*>(data.data()), data.size(), digest);
  return {reinterpret_cast<char*>(digest), sizeof digest};
}

}  // namespace foveola

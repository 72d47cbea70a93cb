// Which way up a picture is: tag Orientation (0x0112) of EXIF, or the same word in XMP. TIFF 6.0, sections 2 and 8.
#include "foveola.hpp"

namespace foveola {
namespace {

constexpr std::uint32_t ORIENTATION = 0x0112, BYTE = 1, SHORT = 3, LONG = 4;

struct Reader {
  const Bytes& data;
  bool little;
  const std::string& place;

  std::uint32_t at(std::size_t offset, std::size_t size) const {
    if (offset > data.size() || data.size() - offset < size)
      throw Error(place, "truncated or broken (EXIF ends early)", "copy or export the file again");
    std::uint32_t value = 0;
    for (std::size_t i = 0; i < size; ++i)
      value = value << 8 | static_cast<unsigned char>(data[offset + (little ? size - 1 - i : i)]);
    return value;
  }
};

}  // namespace

int exif_orientation(const Bytes& tiff, const std::string& place) {
  const bool little = tiff.compare(0, 4, Bytes("II*\0", 4)) == 0;
  if (!little && tiff.compare(0, 4, Bytes("MM\0*", 4)) != 0)
    throw Error(place, "truncated or broken (EXIF of an unknown kind)", "copy or export the file again");
  const Reader reader{tiff, little, place};
  const std::size_t first = reader.at(4, 4);
  const std::uint32_t count = reader.at(first, 2);
  for (std::uint32_t i = 0; i < count; ++i) {
    const std::size_t entry = first + 2 + std::size_t{12} * i;
    if (reader.at(entry, 2) != ORIENTATION) continue;
    const std::uint32_t type = reader.at(entry + 2, 2);
    if (reader.at(entry + 4, 4) != 1 || (type != BYTE && type != SHORT && type != LONG))
      throw Error(place, "an EXIF orientation of another kind", "save it upright and without EXIF");
    const std::uint32_t value = reader.at(entry + 8, type == BYTE ? 1 : type == SHORT ? 2 : 4);
    return value < 9 ? static_cast<int>(value) : 1;
  }
  return 0;
}

int xmp_orientation(const Bytes& xmp) {
  for (const char* word : {"tiff:Orientation=\"", "tiff:Orientation>"}) {
    const std::string name = word;
    const std::size_t found = xmp.find(name);
    if (found == Bytes::npos || found + name.size() >= xmp.size()) continue;
    const char digit = xmp[found + name.size()];
    if (digit >= '0' && digit <= '9') return digit - '0';
  }
  return 0;
}

}  // namespace foveola

// PNG by libpng, with the pixels that Pillow gives: 16-bit grey as it is, everything else as 8-bit grey or RGB.
//
// Laws: each chunk's checksum has to hold; an animation, and a picture any pixel of which is transparent, is refused;
// gamma and profiles are ignored.
#include <png.h>

#include <cstring>

#include "foveola.hpp"

namespace foveola {
namespace {

struct Chunks {
  Bytes exif, xmp;
  bool animated = false, other_exif = false;
};

std::uint32_t big_endian(const Bytes& data, std::size_t at) {
  std::uint32_t value = 0;
  for (std::size_t i = 0; i < 4; ++i) value = value << 8 | static_cast<unsigned char>(data[at + i]);
  return value;
}

// Walk the chunks (PNG 1.2, section 3) for what libpng does not tell.
Chunks look_through(const Bytes& data) {
  Chunks found;
  for (std::size_t at = 8; at + 12 <= data.size();) {
    const std::size_t length = big_endian(data, at);
    const Bytes type = data.substr(at + 4, 4);
    if (length > data.size() - at - 12) break;
    const Bytes content = type == "eXIf" || type == "iTXt" || type == "acTL" || type == "zTXt" || type == "tEXt"
                              ? data.substr(at + 8, length)
                              : Bytes();
    if (type == "eXIf") found.exif = content;
    if (type == "iTXt" && content.rfind("XML:com.adobe.xmp", 0) == 0) found.xmp = content;
    if (type == "acTL" && (length < 4 || big_endian(content, 0) != 1)) found.animated = true;
    if ((type == "zTXt" || type == "tEXt") && content.rfind("Raw profile type exif", 0) == 0) found.other_exif = true;
    at += length + 12;
  }
  return found;
}

struct Source {
  const Bytes& data;
  std::size_t at = 0;
  char message[128] = "";
};

void read_from(png_structp png, png_bytep target, std::size_t size) {
  auto* source = static_cast<Source*>(png_get_io_ptr(png));
  if (source->data.size() - source->at < size) png_error(png, "ends early");
  std::memcpy(target, source->data.data() + source->at, size);
  source->at += size;
}

[[noreturn]] void fail(png_structp png, png_const_charp message) {
  auto* source = static_cast<Source*>(png_get_error_ptr(png));
  std::strncpy(source->message, message, sizeof source->message - 1);
  longjmp(png_jmpbuf(png), 1);
}

void ignore(png_structp, png_const_charp) {}

struct Plan {
  std::uint32_t width = 0, height = 0;
  int depth = 0, colour = 0, channels = 0;
  bool transparent = false;
  std::size_t row = 0;
};

// Header, and what libpng is to make of the rows. False where it gave up. Nothing in here has a destructor.
bool start(png_structp png, png_infop info, Plan& plan) {
  if (setjmp(png_jmpbuf(png))) return false;
  png_set_crc_action(png, PNG_CRC_ERROR_QUIT, PNG_CRC_ERROR_QUIT);
  png_read_info(png, info);
  plan.width = png_get_image_width(png, info);
  plan.height = png_get_image_height(png, info);
  plan.depth = png_get_bit_depth(png, info);
  plan.colour = png_get_color_type(png, info);
  plan.transparent = png_get_valid(png, info, PNG_INFO_tRNS) != 0;
  if (plan.colour == PNG_COLOR_TYPE_PALETTE) png_set_palette_to_rgb(png);
  if (plan.colour == PNG_COLOR_TYPE_GRAY && plan.depth < 8) png_set_expand_gray_1_2_4_to_8(png);
  if (plan.transparent) png_set_tRNS_to_alpha(png);
  if (plan.depth == 16 && plan.colour != PNG_COLOR_TYPE_GRAY) png_set_strip_16(png);
  png_set_interlace_handling(png);
  png_read_update_info(png, info);
  plan.channels = png_get_channels(png, info);
  plan.row = png_get_rowbytes(png, info);
  return true;
}

bool read_rows(png_structp png, png_bytepp rows) {
  if (setjmp(png_jmpbuf(png))) return false;
  png_read_image(png, rows);
  png_read_end(png, nullptr);
  return true;
}

struct Reader {
  Source source;
  png_structp png;
  png_infop info = nullptr;
  explicit Reader(const Bytes& data)
      : source{data}, png(png_create_read_struct(PNG_LIBPNG_VER_STRING, &source, fail, ignore)) {
    if (png) info = png_create_info_struct(png);
    if (!info) throw std::bad_alloc();
    png_set_read_fn(png, &source, read_from);
  }
  ~Reader() { png_destroy_read_struct(&png, &info, nullptr); }
  Reader(const Reader&) = delete;
  Reader& operator=(const Reader&) = delete;
};

// Rows of 1 to 4 channels as grey or RGB; the alpha has to be opaque everywhere.
Picture plain(const std::vector<std::uint8_t>& pixels, const Plan& plan, const std::string& place) {
  Picture picture;
  picture.width = static_cast<int>(plan.width);
  picture.height = static_cast<int>(plan.height);
  const std::size_t channels = static_cast<std::size_t>(plan.channels), kept = channels > 2 ? 3 : 1;
  picture.channels = static_cast<int>(kept);
  picture.bytes.resize(picture.pixels() * kept);
  for (std::size_t i = 0; i < picture.pixels(); ++i) {
    if (kept != channels && pixels[i * channels + kept] != 255)
      // What lies behind a transparent pixel is anyone's guess.
      throw Error(place, "parts of the picture are transparent", "export it without an alpha channel");
    std::memcpy(&picture.bytes[i * kept], &pixels[i * channels], kept);
  }
  return picture;
}

Picture deep_grey(const std::vector<std::uint8_t>& pixels, const Plan& plan) {
  Picture picture;
  picture.width = static_cast<int>(plan.width);
  picture.height = static_cast<int>(plan.height);
  picture.words.resize(picture.pixels());
  for (std::size_t i = 0; i < picture.words.size(); ++i)
    picture.words[i] = static_cast<std::uint16_t>(pixels[2 * i] << 8 | pixels[2 * i + 1]);
  return picture;
}

Error broken(const std::string& place, const char* reason) {
  return Error(place, std::string("truncated or broken (") + reason + ")", "copy or export the file again");
}

}  // namespace

Picture decode_png(const Bytes& data, const std::string& place) {
  const Chunks chunks = look_through(data);
  if (chunks.animated)
    throw Error(place, "holds more than one picture", "save the one to be read as a file of its own");
  if (chunks.other_exif) throw Error(place, "EXIF as text", "save it upright and without EXIF");
  Reader reader(data);
  Plan plan;
  if (!start(reader.png, reader.info, plan)) throw broken(place, reader.source.message);
  check_size(plan.width, plan.height, place);
  const bool deep = plan.depth == 16 && plan.colour == PNG_COLOR_TYPE_GRAY;
  if (plan.transparent && (plan.depth == 16 || (plan.depth < 8 && plan.colour == PNG_COLOR_TYPE_GRAY)))
    throw Error(place, std::to_string(plan.depth) + "-bit pixels with a transparent value",
                "export it without transparency");
  std::vector<std::uint8_t> pixels(plan.row * plan.height);
  std::vector<png_bytep> rows(plan.height);
  for (std::size_t y = 0; y < rows.size(); ++y) rows[y] = &pixels[y * plan.row];
  if (!read_rows(reader.png, rows.data())) throw broken(place, reader.source.message);
  int orientation = chunks.exif.empty() ? 0 : exif_orientation(chunks.exif, place);
  if (orientation == 0) orientation = xmp_orientation(chunks.xmp);
  return upright(deep ? deep_grey(pixels, plan) : plain(pixels, plan, place), orientation, place);
}

}  // namespace foveola

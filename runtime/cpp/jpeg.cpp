// JPEG by libjpeg(-turbo), with the settings under which Pillow reads: slow integer DCT, smooth chroma, RGB or grey.
//
// Laws: a file that ends before its picture does is refused, also where libjpeg would paint the rest grey; CMYK is
// refused; EXIF turns are carried out, mirrorings refused.
#include <csetjmp>
#include <cstdio>  // before jpeglib.h, which needs it
#include <cstring>

// clang-format off: jerror.h needs jpeglib.h
#include <jpeglib.h>
#include <jerror.h>
// clang-format on

#include "foveola.hpp"

namespace foveola {
namespace {

constexpr std::size_t SEGMENT = 65533;  // the longest content of a marker

struct Errors {
  jpeg_error_mgr base;
  std::jmp_buf place;
  char message[JMSG_LENGTH_MAX];
};

[[noreturn]] void fail(j_common_ptr common) {
  auto* errors = reinterpret_cast<Errors*>(common->err);
  common->err->format_message(common, errors->message);
  std::longjmp(errors->place, 1);
}

void ignore(j_common_ptr) {}

boolean no_more(j_decompress_ptr reader) {
  ERREXIT(reader, JERR_INPUT_EOF);
  return FALSE;
}

void skip(j_decompress_ptr reader, long count) {
  if (count <= 0) return;
  if (static_cast<std::size_t>(count) > reader->src->bytes_in_buffer) ERREXIT(reader, JERR_INPUT_EOF);
  reader->src->next_input_byte += count;
  reader->src->bytes_in_buffer -= static_cast<std::size_t>(count);
}

void nothing(j_decompress_ptr) {}

struct Reader {
  jpeg_decompress_struct jpeg{};
  jpeg_source_mgr source{};
  Errors errors{};
  explicit Reader(const Bytes& data) {
    jpeg.err = jpeg_std_error(&errors.base);
    errors.base.error_exit = fail;
    errors.base.output_message = ignore;
    source.next_input_byte = reinterpret_cast<const JOCTET*>(data.data());
    source.bytes_in_buffer = data.size();
    source.init_source = nothing;
    source.fill_input_buffer = no_more;
    source.skip_input_data = skip;
    source.resync_to_restart = jpeg_resync_to_restart;
    source.term_source = nothing;
  }
  ~Reader() { jpeg_destroy_decompress(&jpeg); }
  Reader(const Reader&) = delete;
  Reader& operator=(const Reader&) = delete;
};

// False where libjpeg gave up. Nothing in these two has a destructor.
bool start(Reader& reader) {
  if (setjmp(reader.errors.place)) return false;
  jpeg_create_decompress(&reader.jpeg);
  reader.jpeg.src = &reader.source;
  jpeg_save_markers(&reader.jpeg, JPEG_APP0 + 1, SEGMENT);
  jpeg_read_header(&reader.jpeg, TRUE);
  return true;
}

bool read_rows(Reader& reader, std::uint8_t* pixels, std::size_t row) {
  if (setjmp(reader.errors.place)) return false;
  jpeg_start_decompress(&reader.jpeg);
  while (reader.jpeg.output_scanline < reader.jpeg.output_height) {
    JSAMPROW target = pixels + reader.jpeg.output_scanline * row;
    jpeg_read_scanlines(&reader.jpeg, &target, 1);
  }
  jpeg_finish_decompress(&reader.jpeg);
  return true;
}

int orientation_of(const jpeg_decompress_struct& jpeg, const std::string& place) {
  Bytes exif, xmp;
  const Bytes exif_name("Exif\0\0", 6), xmp_name("http://ns.adobe.com/xap/1.0/\0", 29);
  for (const auto* marker = jpeg.marker_list; marker; marker = marker->next) {
    const Bytes content(reinterpret_cast<const char*>(marker->data), marker->data_length);
    if (content.compare(0, exif_name.size(), exif_name) == 0) exif += content.substr(exif_name.size());
    if (content.compare(0, xmp_name.size(), xmp_name) == 0) xmp = content.substr(xmp_name.size());
  }
  const int found = exif.empty() ? 0 : exif_orientation(exif, place);
  return found ? found : xmp_orientation(xmp);
}

Error broken(const std::string& place, const Reader& reader) {
  return Error(place, std::string("truncated or broken (") + reader.errors.message + ")",
               "copy or export the file again");
}

}  // namespace

Picture decode_jpeg(const Bytes& data, const std::string& place) {
  Reader reader(data);
  if (!start(reader)) throw broken(place, reader);
  // Between its markers libjpeg skips what it does not know; Pillow does not.
  if (reader.errors.base.num_warnings)
    throw Error(place, "truncated or broken (bytes between its markers)", "copy or export the file again");
  jpeg_decompress_struct& jpeg = reader.jpeg;
  check_size(jpeg.image_width, jpeg.image_height, place);
  if (jpeg.num_components == 4) throw Error(place, "CMYK, the colours of print", "export it as RGB or grey");
  if (jpeg.num_components != 1 && jpeg.num_components != 3)
    throw Error(place, std::to_string(jpeg.num_components) + " channels", "export it as 8-bit grey or as RGB");
  jpeg.out_color_space = jpeg.num_components == 1 ? JCS_GRAYSCALE : JCS_RGB;
  jpeg.dct_method = JDCT_ISLOW;
  jpeg.do_fancy_upsampling = TRUE;
  Picture picture;
  picture.width = static_cast<int>(jpeg.image_width);
  picture.height = static_cast<int>(jpeg.image_height);
  picture.channels = jpeg.num_components;
  picture.bytes.resize(picture.pixels() * static_cast<std::size_t>(picture.channels));
  const int orientation = orientation_of(jpeg, place);
  if (!read_rows(reader, picture.bytes.data(), picture.bytes.size() / jpeg.image_height)) throw broken(place, reader);
  return upright(std::move(picture), orientation, place);
}

}  // namespace foveola

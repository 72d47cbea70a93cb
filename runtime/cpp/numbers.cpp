// The exponential function, and how numbers and strings are written, as numpy and Python have them.
//
// numpy computes float32 exponentials by a rational function of its own where the processor has AVX2 and FMA (numpy's
// loops_exponent_log, after Cody and Waite 1980), and asks the C library elsewhere; so does this file, bit for bit.
// float64 exponentials, of which boxes are made, are those of runtime/exponential.py: sums, products and quotients in
// its order, and none of the C library's.
#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <limits>

#include "foveola.hpp"

namespace foveola {
namespace {

bool fused() {
#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
  static const bool found = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  return found;
#else
  return false;
#endif
}

// exp(x) = 2^k P(r) / Q(r) with x = k ln 2 + r; every fma is one rounding.
float rational_exp(float x) {
  if (std::isnan(x)) return x;
  if (x >= 88.72283935546875f) return std::numeric_limits<float>::infinity();
  if (x <= -103.97208404541015625f) return 0.0f;
  const float k = std::nearbyint(x * 1.442695040888963407f);
  float r = std::fma(k, -6.93145752e-1f, x);
  r = std::fma(k, -1.42860677e-6f, r);
  float p = std::fma(5.082762527590693718096e-04f, r, 6.757896990527504603057e-03f);
  for (float c : {5.114512081637298353406e-02f, 2.473615434895520810817e-01f, 7.257664613233124478488e-01f,
                  9.999999999980870924916e-01f})
    p = std::fma(p, r, c);
  float q = std::fma(2.159509375685829852307e-02f, r, -2.742335390411667452936e-01f);
  q = std::fma(q, r, 1.0f);
  return std::ldexp(p / q, static_cast<int>(k));
}

}  // namespace

float exp32(float x) { return fused() ? rational_exp(x) : std::exp(x); }

// exp(x) of a finite number after Sun's fdlibm (e_exp.c, 1993), as runtime/exponential.py writes it.
double exp64(double x) {
  constexpr double P[] = {1.66666666666666019037e-01, -2.77777777770155933842e-03, 6.61375632143793436117e-05,
                          -1.65339022054652515390e-06, 4.13813679705723846039e-08};
  x = std::min(std::max(x, -746.0), 710.0);  // beyond them the result is 0 or infinity
  const double k = std::nearbyint(x * 1.44269504088896338700);
  const double high = x - k * 6.93147180369123816490e-01, low = k * 1.90821492927058770002e-10;
  const double r = high - low, square = r * r;
  double series = P[4];
  for (int i = 3; i >= 0; --i) series = series * square + P[i];
  const double c = r - series * square;
  return std::ldexp(1.0 - ((low - (r * c) / (2.0 - c)) - high), static_cast<int>(k));
}

// 1 / (1 + exp(-x)) without overflow.
template <class T>
T sigmoid(T x) {
  T small;
  if constexpr (sizeof(T) == sizeof(float))
    small = exp32(-std::fabs(x));
  else
    small = exp64(-std::fabs(x));
  return x >= 0 ? 1 / (1 + small) : small / (1 + small);
}
template float sigmoid(float);
template double sigmoid(double);

// The shortest digits that give the number back; an exponent below 1e-4 and from 1e16 on.
std::string python_repr(double value) {
  char buffer[40];
  const auto end = std::to_chars(buffer, buffer + sizeof buffer, std::fabs(value), std::chars_format::scientific).ptr;
  const std::string text(buffer, end);
  const std::size_t e = text.find('e');
  std::string digits = text.substr(0, 1) + (e > 2 ? text.substr(2, e - 2) : "");
  const int exponent = std::stoi(text.substr(e + 1));
  std::string written = std::signbit(value) ? "-" : "";
  if (exponent < -4 || exponent >= 16) {
    const std::string figures = std::to_string(std::abs(exponent));
    return written + digits.substr(0, 1) + (digits.size() > 1 ? "." + digits.substr(1) : "") +
           (exponent < 0 ? "e-" : "e+") + (figures.size() < 2 ? "0" : "") + figures;
  }
  if (exponent < 0) return written + "0." + std::string(static_cast<std::size_t>(-exponent - 1), '0') + digits;
  const auto whole = static_cast<std::size_t>(exponent) + 1;
  if (digits.size() < whole) digits.append(whole - digits.size(), '0');
  return written + digits.substr(0, whole) + "." + (digits.size() > whole ? digits.substr(whole) : "0");
}

namespace {

// The next code point; a byte that is not UTF-8 becomes the lone surrogate by which Python's file names carry it.
std::uint32_t next_point(const std::string& text, std::size_t& at) {
  const auto byte = [&](std::size_t i) { return i < text.size() ? static_cast<unsigned char>(text[i]) : 0u; };
  const std::uint32_t lead = byte(at);
  std::size_t length = 0;
  if (lead < 0x80) length = 1;
  if (lead >= 0xc2 && lead < 0xe0) length = 2;
  if (lead >= 0xe0 && lead < 0xf0) length = 3;
  if (lead >= 0xf0 && lead < 0xf5) length = 4;
  std::uint32_t point = length < 2 ? lead : lead & (0x7fu >> length);
  bool valid = length > 0;
  for (std::size_t i = 1; i < length; ++i) {
    valid = valid && (byte(at + i) & 0xc0u) == 0x80u;
    point = point << 6 | (byte(at + i) & 0x3fu);
  }
  valid = valid && !(length == 3 && (point < 0x800 || (point >= 0xd800 && point < 0xe000))) &&
          !(length == 4 && (point < 0x10000 || point > 0x10ffff));
  at += valid ? length : 1;
  return valid ? point : 0xdc00 + lead;
}

std::string escaped(std::uint32_t unit) {
  char buffer[16];
  std::snprintf(buffer, sizeof buffer, "\\u%04x", unit);
  return buffer;
}

}  // namespace

std::string python_string(const std::string& utf8) {
  static const std::string plain = "\"\\\n\r\t\f\b", letters = "\"\\nrtfb";
  std::string written = "\"";
  for (std::size_t at = 0; at < utf8.size();) {
    const std::uint32_t point = next_point(utf8, at);
    const std::size_t known = point < 0x80 ? plain.find(static_cast<char>(point)) : std::string::npos;
    if (known != std::string::npos)
      written += std::string("\\") + letters[known];
    else if (point >= 0x20 && point < 0x7f)
      written += static_cast<char>(point);
    else if (point < 0x10000)
      written += escaped(point);
    else
      written += escaped(0xd800 + ((point - 0x10000) >> 10)) + escaped(0xdc00 + ((point - 0x10000) & 0x3ff));
  }
  return written + "\"";
}

}  // namespace foveola

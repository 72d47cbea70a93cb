/* The real instructions, as an oracle for foveola.export.pairs: VPMADDUBSW, then VPMADDWD with ones.
 *
 * stdin:  int32 M, N, K (K a multiple of 32); M x K unsigned bytes; N x K signed bytes
 * stdout: M x N int32 sums
 *
 * gcc -O1 -mavx2 avx2_pairs.c -o avx2_pairs
 */
#include <immintrin.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

static int read_all(void *target, size_t size) { return fread(target, 1, size, stdin) == size; }

static int32_t product(const uint8_t *a, const int8_t *w, int32_t k) {
    const __m256i ones = _mm256_set1_epi16(1);
    __m256i sum = _mm256_setzero_si256();
    for (int32_t i = 0; i < k; i += 32) {
        __m256i bytes = _mm256_loadu_si256((const __m256i *)(a + i));
        __m256i weights = _mm256_loadu_si256((const __m256i *)(w + i));
        __m256i pairs = _mm256_maddubs_epi16(bytes, weights);
        sum = _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, ones));
    }
    int32_t lanes[8], total = 0;
    _mm256_storeu_si256((__m256i *)lanes, sum);
    for (int i = 0; i < 8; i++) total += lanes[i];
    return total;
}

int main(void) {
    int32_t shape[3];
    if (!read_all(shape, sizeof shape) || shape[2] % 32) return 2;
    size_t m = (size_t)shape[0], n = (size_t)shape[1], k = (size_t)shape[2];
    uint8_t *a = malloc(m * k);
    int8_t *w = malloc(n * k);
    if (!a || !w || !read_all(a, m * k) || !read_all(w, n * k)) return 2;
    for (size_t i = 0; i < m; i++)
        for (size_t j = 0; j < n; j++) {
            int32_t sum = product(a + i * k, w + j * k, shape[2]);
            if (fwrite(&sum, sizeof sum, 1, stdout) != 1) return 2;
        }
    free(a);
    free(w);
    return 0;
}

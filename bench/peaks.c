/* Peaks of one machine: multiply-adds of float32 and of bytes, and bytes a second from memory; one line of JSON.
 *
 *     cc -O3 -march=native -pthread bench/peaks.c -o peaks && ./peaks THREADS
 *
 * Every kernel keeps enough independent sums that no instruction waits for another, and lives in registers. The widest
 * instruction set that the compiler was told of is used; bytes are multiplied by VPDPBUSD where it is there, and else by
 * VPMADDUBSW, VPMADDWD and an addition. Memory is the triad of STREAM (McCalpin 1995): a = b + s * c, 24 bytes a step
 * (without the read for ownership), over arrays far larger than the caches. One multiply-add counts as two operations.
 */
#include <immintrin.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define SUMS 12
#define STEPS 20000000L
#define TRIAD (48L * 1024 * 1024)

/* The sums are twelve variables and no array, which would live in memory; the compiler must believe that each is looked
 * at after every step. */
#define EACH(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11)
#define KEEP(sum) __asm__ volatile("" : "+v"(sum))
#define MAKE_FLOAT(i) floats sum##i = SET(1.0f + i);
#define STEP_FLOAT(i) sum##i = FMA(sum##i, a, b); KEEP(sum##i);
#define TAKE_FLOAT(i) total += FIRST_FLOAT(sum##i);
#define MAKE_INT(i) bytes sum##i = ZERO;
#define STEP_INT(i) sum##i = DOT(sum##i, a, b); KEEP(sum##i); KEEP(a);
#define TAKE_INT(i) total += FIRST_INT(sum##i);

static double seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec + 1e-9 * now.tv_nsec;
}

#if defined(__AVX512F__)
typedef __m512 floats;
#define LANES 16
#define SET(x) _mm512_set1_ps(x)
#define FMA(a, b, c) _mm512_fmadd_ps(a, b, c)
#define FIRST_FLOAT(x) _mm512_cvtss_f32(x)
#else
typedef __m256 floats;
#define LANES 8
#define SET(x) _mm256_set1_ps(x)
#define FMA(a, b, c) _mm256_fmadd_ps(a, b, c)
#define FIRST_FLOAT(x) _mm256_cvtss_f32(x)
#endif

#if defined(__AVX512VNNI__)
typedef __m512i bytes;
#define BYTES 64
#define ZERO _mm512_setzero_si512()
#define ONES(x) _mm512_set1_epi8(x)
#define DOT(s, a, b) _mm512_dpbusd_epi32(s, a, b)
#define KIND "avx512_vnni"
#define FIRST_INT(x) _mm_cvtsi128_si32(_mm512_castsi512_si128(x))
#elif defined(__AVXVNNI__)
typedef __m256i bytes;
#define BYTES 32
#define ZERO _mm256_setzero_si256()
#define ONES(x) _mm256_set1_epi8(x)
#define DOT(s, a, b) _mm256_dpbusd_avx_epi32(s, a, b)
#define KIND "avx_vnni"
#define FIRST_INT(x) _mm_cvtsi128_si32(_mm256_castsi256_si128(x))
#else
typedef __m256i bytes;
#define BYTES 32
#define ZERO _mm256_setzero_si256()
#define ONES(x) _mm256_set1_epi8(x)
#define DOT(s, a, b) \
    _mm256_add_epi32(s, _mm256_madd_epi16(_mm256_maddubs_epi16(a, b), _mm256_set1_epi16(1)))
#define KIND "avx2"
#define FIRST_INT(x) _mm_cvtsi128_si32(_mm256_castsi256_si128(x))
#endif

static void *run_floats(void *out) {
    floats a = SET(1.0000001f), b = SET(1e-7f);
    float total = 0;
    EACH(MAKE_FLOAT)
    for (long step = 0; step < STEPS; step++) {
        EACH(STEP_FLOAT)
    }
    EACH(TAKE_FLOAT)
    *(double *)out = total;
    return NULL;
}

static void *run_bytes(void *out) {
    bytes a = ONES(3), b = ONES(2);
    int32_t total = 0;
    EACH(MAKE_INT)
    for (long step = 0; step < STEPS; step++) {
        EACH(STEP_INT)
    }
    EACH(TAKE_INT)
    *(double *)out = total;
    return NULL;
}

static void *run_triad(void *out) {
    double *a = malloc(TRIAD), *b = malloc(TRIAD), *c = malloc(TRIAD);
    long n = TRIAD / sizeof(double);
    for (long i = 0; i < n; i++) a[i] = 0, b[i] = 1, c[i] = 2;
    double best = 1e9;
    for (int round = 0; round < 12; round++) {
        double start = seconds();
        for (long i = 0; i < n; i++) a[i] = b[i] + 3.0 * c[i];
        __asm__ volatile("" ::"r"(a) : "memory");
        double took = seconds() - start;
        if (took < best) best = took;
    }
    *(double *)out = 3.0 * TRIAD / best;
    free(a), free(b), free(c);
    return NULL;
}

static double together(void *(*work)(void *), int threads, double *sums) {
    pthread_t ids[64];
    double start = seconds();
    for (int i = 0; i < threads; i++) pthread_create(&ids[i], NULL, work, &sums[i]);
    for (int i = 0; i < threads; i++) pthread_join(ids[i], NULL);
    return seconds() - start;
}

int main(int count, char **words) {
    int threads = count > 1 ? atoi(words[1]) : 1;
    double sums[64] = {0}, best_floats = 1e9, best_bytes = 1e9, bandwidth = 0;
    if (threads < 1 || threads > 64) return 2;
    for (int round = 0; round < 5; round++) {
        double took = together(run_floats, threads, sums);
        if (took < best_floats) best_floats = took;
        took = together(run_bytes, threads, sums);
        if (took < best_bytes) best_bytes = took;
    }
    together(run_triad, threads, sums);
    for (int i = 0; i < threads; i++) bandwidth += sums[i];
    double steps = (double)STEPS * SUMS * threads;
    printf("{\"threads\": %d, \"kind\": \"%s\", \"float32_gops\": %.1f, \"int8_gops\": %.1f, \"bandwidth_gb_s\": %.1f}\n",
           threads, KIND, 2e-9 * steps * LANES / best_floats, 2e-9 * steps * BYTES / best_bytes, 1e-9 * bandwidth);
    return 0;
}

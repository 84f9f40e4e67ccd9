/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * bucket_of() returns the histogram bucket of a duration. The upper bounds are powers
 * 2^(k/4) of a second, inclusive: bucket i ends at 2^((i - SECOND_BUCKET) / 4) s. The
 * first bucket also holds all shorter durations. The last bucket holds all longer ones.
 *
 * The loader defines the scheme (exporter/model/buckets.py): NR_BUCKETS,
 * SECOND_BUCKET (the bucket that ends at 1 s), MIN_BUCKET_NS (the longest duration
 * of the first bucket) and MAX_BUCKET_NS (the longest of the last bucket but one).
 */

/*
 * A second is 10^9 = 5^9 * 2^9 ns, so in ns every boundary is 5^9 * 2^(-q/4)
 * times a power of two. These are the four boundaries of an octave, scaled so
 * that a value whose highest set bit is bit 62 can be compared with them:
 * floor(5^9 * 2^42 * 2^(-q/4)). The comparison is exact, since the value is an
 * integer.
 */
#define BOUND_Q3	5107605667107197932ULL
#define BOUND_Q2	6074000999952099384ULL
#define BOUND_Q1	7223245205676679009ULL
#define BOUND_Q0	8589934592000000000ULL

/*
 * The bucket of a value whose highest set bit is bit log2, if the value is above none
 * of the four boundaries of its octave. For 1 s, the highest set bit is bit 29. 1 s is
 * above three boundaries, and belongs to SECOND_BUCKET.
 */
#define OCTAVE_BUCKET(log2)	(4 * (log2) - (4 * 29 + 3 - SECOND_BUCKET))

_Static_assert(MAX_BUCKET_NS < 1ULL << 42, "bucket_of() finds the highest set bit up to bit 41");

static __always_inline u32 bucket_of(u64 ns)
{
	u64 x = ns;
	u32 log2 = 0;

	if (ns <= MIN_BUCKET_NS)
		return 0;
	if (ns > MAX_BUCKET_NS)
		return NR_BUCKETS - 1;

	if (x >> 32) { x >>= 32; log2 += 32; }
	if (x >> 16) { x >>= 16; log2 += 16; }
	if (x >> 8)  { x >>= 8;  log2 += 8; }
	if (x >> 4)  { x >>= 4;  log2 += 4; }
	if (x >> 2)  { x >>= 2;  log2 += 2; }
	log2 += x >> 1;

	x = ns << (62 - log2);
	return OCTAVE_BUCKET(log2) + (x > BOUND_Q3) + (x > BOUND_Q2) +
	       (x > BOUND_Q1) + (x > BOUND_Q0);
}

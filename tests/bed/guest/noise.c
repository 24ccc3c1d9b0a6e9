/* SPDX-License-Identifier: MIT */
/*
 * noise: pseudo-random bytes that host and guest can both make, so that only
 * a seed and a size have to be agreed on.
 *
 *   noise SEED BYTES                 write them to standard output
 *   noise SEED BYTES --fill DEVICE   write them to DEVICE, as unkindly as a
 *                                    file system would
 *
 * Byte i depends on SEED and i alone: the 64-bit word at i / 8 is the
 * splitmix64 output for counter i / 8 (Steele, Lea, Flood: "Fast splittable
 * pseudorandom number generators", OOPSLA 2014), stored little-endian.
 *
 * --fill cuts the range into pieces of 512 bytes to 1 MiB, writes them in a
 * shuffled order, half with O_DIRECT and half through the page cache, and
 * flushes now and then; whatever the order, the content is that of the first
 * form. The piece sizes come from SEED too.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define PIECE_MAX	(1u << 20)
#define SECTOR		512u
#define GOLDEN		0x9e3779b97f4a7c15ull

struct piece {
	uint64_t off;
	uint32_t len;
};

static uint64_t mix(uint64_t z)
{
	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
	return z ^ (z >> 31);
}

/* Fill buf with bytes [off, off + len) of the stream; off is a multiple of 8. */
static void noise_fill(uint64_t seed, uint64_t off, unsigned char *buf, size_t len)
{
	uint64_t base = mix(seed + GOLDEN);

	for (size_t i = 0; i < len; i += 8) {
		uint64_t word = mix(base + GOLDEN * ((off + i) / 8 + 1));

		memcpy(buf + i, &word, len - i < 8 ? len - i : 8);
	}
}

static int write_all(int fd, const unsigned char *buf, size_t len, uint64_t off, int seekable)
{
	while (len) {
		ssize_t n = seekable ? pwrite(fd, buf, len, (off_t)off) : write(fd, buf, len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n ? -errno : -EIO;
		buf += n;
		len -= (size_t)n;
		off += (uint64_t)n;
	}
	return 0;
}

static int noise_stream(uint64_t seed, uint64_t size, unsigned char *buf)
{
	for (uint64_t off = 0; off < size; off += PIECE_MAX) {
		size_t len = size - off < PIECE_MAX ? (size_t)(size - off) : PIECE_MAX;
		int err;

		noise_fill(seed, off, buf, len);
		err = write_all(STDOUT_FILENO, buf, len, 0, 0);
		if (err)
			return err;
	}
	return 0;
}

/* Cut [0, size) into sector-aligned pieces and shuffle them (Fisher-Yates). */
static struct piece *pieces_make(uint64_t seed, uint64_t size, size_t *count)
{
	struct piece *pieces = calloc(size / SECTOR + 1, sizeof(*pieces));
	uint64_t state = seed, off = 0;
	size_t n = 0;

	if (!pieces)
		return NULL;
	while (off < size) {
		uint64_t r = mix(state += GOLDEN);
		/* A power of two of sectors, minus a few: odd lengths matter. */
		uint64_t len = (SECTOR << (r % 12)) - SECTOR * ((r >> 8) % 3);

		if ((int64_t)len < (int64_t)SECTOR)
			len = SECTOR;
		if (len > size - off)
			len = size - off;
		pieces[n++] = (struct piece){ .off = off, .len = (uint32_t)len };
		off += len;
	}
	for (size_t i = n; i > 1; i--) {
		size_t j = mix(state += GOLDEN) % i;
		struct piece tmp = pieces[i - 1];

		pieces[i - 1] = pieces[j];
		pieces[j] = tmp;
	}
	*count = n;
	return pieces;
}

static int noise_device(uint64_t seed, uint64_t size, unsigned char *buf, const char *path)
{
	int direct, cached, err = 0;
	struct piece *pieces;
	size_t count;

	if (size % SECTOR)
		return -EINVAL;
	direct = open(path, O_WRONLY | O_DIRECT | O_CLOEXEC);
	if (direct < 0)
		return -errno;
	cached = open(path, O_WRONLY | O_CLOEXEC);
	if (cached < 0) {
		err = -errno;
		goto close_direct;
	}
	pieces = pieces_make(seed, size, &count);
	if (!pieces) {
		err = -ENOMEM;
		goto close_cached;
	}
	/*
	 * The cached half first and flushed, then the direct half: a direct write
	 * beside a dirty page of the cache would be overwritten by that page.
	 */
	for (int pass = 0; pass < 2 && !err; pass++) {
		int fd = pass ? direct : cached;

		for (size_t i = (size_t)pass; i < count && !err; i += 2) {
			noise_fill(seed, pieces[i].off, buf, pieces[i].len);
			err = write_all(fd, buf, pieces[i].len, pieces[i].off, 1);
			if (!err && i % 16 < 2 && fdatasync(fd))
				err = -errno;
		}
		if (!err && fsync(fd))
			err = -errno;
	}
	free(pieces);
close_cached:
	if (close(cached) && !err)
		err = -errno;
close_direct:
	if (close(direct) && !err)
		err = -errno;
	return err;
}

int main(int argc, char **argv)
{
	uint64_t seed, size;
	unsigned char *buf;
	char *end1, *end2;
	int err;

	if (argc != 3 && !(argc == 5 && !strcmp(argv[3], "--fill"))) {
		fprintf(stderr, "usage: noise SEED BYTES [--fill DEVICE]\n");
		return 2;
	}
	seed = strtoull(argv[1], &end1, 0);
	size = strtoull(argv[2], &end2, 0);
	if (*end1 || *end2) {
		fprintf(stderr, "noise: SEED and BYTES are numbers\n");
		return 2;
	}
	/* O_DIRECT wants an aligned buffer. */
	buf = mmap(NULL, PIECE_MAX, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (buf == MAP_FAILED) {
		perror("noise: mmap");
		return 1;
	}
	err = argc == 5 ? noise_device(seed, size, buf, argv[4]) : noise_stream(seed, size, buf);
	if (err) {
		fprintf(stderr, "noise: %s\n", strerror(-err));
		return 1;
	}
	return 0;
}

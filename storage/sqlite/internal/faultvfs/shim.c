// A VFS of SQLite over its default one. It counts what changes files, makes
// chosen calls fail, and remembers of each file what has reached the disk, apart
// from what the kernel's page cache holds, as Linux treats them: a write is in the
// cache; a sync puts the dirty pages on the disk; a sync that fails leaves them in
// the cache, clean, and never writes them again. Whoever else has the file open is
// told of the failure by his own next sync, once (errseq_t, since Linux 4.13).

#include <pthread.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <fcntl.h>
#include <unistd.h>

#include "shim.h"

// The parts of sqlite3.h (public domain) that a VFS needs; they are part of
// SQLite's stable binary interface.
#define SQLITE_OK 0
#define SQLITE_NOMEM 7
#define SQLITE_IOERR 10
#define SQLITE_FULL 13
#define SQLITE_IOERR_WRITE (SQLITE_IOERR | (3 << 8))
#define SQLITE_IOERR_FSYNC (SQLITE_IOERR | (4 << 8))
#define SQLITE_IOERR_TRUNCATE (SQLITE_IOERR | (6 << 8))
#define SQLITE_IOERR_DELETE (SQLITE_IOERR | (10 << 8))
#define SQLITE_OPEN_TRACKED (0x00000100 | 0x00000800 | 0x00080000) // main database, its journal, its WAL

typedef int64_t sqlite3_int64;
typedef struct sqlite3_file sqlite3_file;
typedef struct sqlite3_vfs sqlite3_vfs;
typedef struct sqlite3_io_methods sqlite3_io_methods;
struct sqlite3_file {
	const sqlite3_io_methods *pMethods;
};
struct sqlite3_io_methods {
	int iVersion;
	int (*xClose)(sqlite3_file *);
	int (*xRead)(sqlite3_file *, void *, int, sqlite3_int64);
	int (*xWrite)(sqlite3_file *, const void *, int, sqlite3_int64);
	int (*xTruncate)(sqlite3_file *, sqlite3_int64);
	int (*xSync)(sqlite3_file *, int);
	int (*xFileSize)(sqlite3_file *, sqlite3_int64 *);
	int (*xLock)(sqlite3_file *, int);
	int (*xUnlock)(sqlite3_file *, int);
	int (*xCheckReservedLock)(sqlite3_file *, int *);
	int (*xFileControl)(sqlite3_file *, int, void *);
	int (*xSectorSize)(sqlite3_file *);
	int (*xDeviceCharacteristics)(sqlite3_file *);
	int (*xShmMap)(sqlite3_file *, int, int, int, void volatile **);
	int (*xShmLock)(sqlite3_file *, int, int, int);
	void (*xShmBarrier)(sqlite3_file *);
	int (*xShmUnmap)(sqlite3_file *, int);
};
struct sqlite3_vfs {
	int iVersion, szOsFile, mxPathname;
	sqlite3_vfs *pNext;
	const char *zName;
	void *pAppData;
	int (*xOpen)(sqlite3_vfs *, const char *, sqlite3_file *, int, int *);
	int (*xDelete)(sqlite3_vfs *, const char *, int);
	int (*xAccess)(sqlite3_vfs *, const char *, int, int *);
	int (*xFullPathname)(sqlite3_vfs *, const char *, int, char *);
	void *(*xDlOpen)(sqlite3_vfs *, const char *);
	void (*xDlError)(sqlite3_vfs *, int, char *);
	void (*(*xDlSym)(sqlite3_vfs *, void *, const char *))(void);
	void (*xDlClose)(sqlite3_vfs *, void *);
	int (*xRandomness)(sqlite3_vfs *, int, char *);
	int (*xSleep)(sqlite3_vfs *, int);
	int (*xCurrentTime)(sqlite3_vfs *, double *);
	int (*xGetLastError)(sqlite3_vfs *, int, char *);
	int (*xCurrentTimeInt64)(sqlite3_vfs *, sqlite3_int64 *);
};
// Weak: the driver brings them when the program is linked.
extern sqlite3_vfs *sqlite3_vfs_find(const char *) __attribute__((weak));
extern int sqlite3_vfs_register(sqlite3_vfs *, int) __attribute__((weak));

enum { PAGE = 4096, SECTOR = 512, MAX_FILES = 64 };

// disk is one file as it stands on the disk.
typedef struct {
	char *path;
	unsigned char *data; // on the disk
	int64_t size, cap;
	unsigned char *dirty; // by page: in the cache only, on its way to the disk
	int64_t cacheSize;    // of the file in the cache
	unsigned errors;      // syncs that failed
	unsigned char *cache; // the file in the cache
} disk;

typedef struct {
	sqlite3_file base;
	disk *d;         // NULL: not tracked
	unsigned errors; // of d that this opener was told of, or that were before it
	sqlite3_file *real;
} shim_file;

static pthread_mutex_t mu = PTHREAD_MUTEX_INITIALIZER;
static sqlite3_vfs *real_vfs, shim_vfs;
static disk disks[MAX_FILES];
static char *watched; // the directory; NULL or empty: none
static int ndisks, ops, hits, fail_at, fail_count, fail_mode, cut;
static _Atomic int slow;

static int is_watched(const char *path) { return watched && *watched && !strncmp(path, watched, strlen(watched)); }

// step counts a change, and reports whether it is to fail.
static int step(void) {
	if (cut) return 1;
	ops++;
	if (fail_at == 0 || ops < fail_at || ops >= fail_at + fail_count) return 0;
	hits++;
	return 1;
}

static int grow(disk *d, int64_t size) {
	if (size <= d->cap) return SQLITE_OK;
	int64_t cap = (2 * size + PAGE) / PAGE * PAGE;
	unsigned char *data = realloc(d->data, cap), *cache, *dirty;
	if (data) d->data = data;
	cache = realloc(d->cache, cap);
	if (cache) d->cache = cache;
	dirty = realloc(d->dirty, cap / PAGE);
	if (dirty) d->dirty = dirty;
	if (!data || !cache || !dirty) return SQLITE_NOMEM;
	memset(data + d->cap, 0, cap - d->cap);
	memset(cache + d->cap, 0, cap - d->cap);
	memset(dirty + d->cap / PAGE, 0, (cap - d->cap) / PAGE);
	d->cap = cap;
	return SQLITE_OK;
}

// mark gives a file a time of change that nobody else gives it, so that it can be
// told when somebody wrote it past this VFS.
static const struct timespec marked[2] = {{1, 0}, {1, 0}};
static void mark(disk *d) { utimensat(AT_FDCWD, d->path, marked, 0); }
static int is_marked(disk *d) {
	struct stat st;
	return stat(d->path, &st) == 0 && st.st_mtim.tv_sec == 1 && st.st_mtim.tv_nsec == 0;
}

static int shim_close(sqlite3_file *f) { return ((shim_file *)f)->real->pMethods->xClose(((shim_file *)f)->real); }

static int shim_read(sqlite3_file *f, void *p, int n, sqlite3_int64 at) {
	sqlite3_file *r = ((shim_file *)f)->real;
	return r->pMethods->xRead(r, p, n, at);
}

static int shim_write(sqlite3_file *f, const void *p, int n, sqlite3_int64 at) {
	shim_file *s = (shim_file *)f;
	pthread_mutex_lock(&mu);
	int fails = s->d && step(), rc = SQLITE_OK, whole = n;
	if (fails) n = fail_mode && !cut ? n / 2 : 0; // a short write leaves half
	if (n > 0) rc = s->real->pMethods->xWrite(s->real, p, n, at);
	if (rc == SQLITE_OK && s->d && n > 0 && (rc = grow(s->d, at + n)) == SQLITE_OK) {
		memcpy(s->d->cache + at, p, n);
		if (at + n > s->d->cacheSize) s->d->cacheSize = at + n;
		for (int64_t i = at / PAGE; i <= (at + n - 1) / PAGE; i++) s->d->dirty[i] = 1;
		mark(s->d);
	}
	pthread_mutex_unlock(&mu);
	if (fails) return fail_mode && whole > 1 ? SQLITE_FULL : SQLITE_IOERR_WRITE;
	return rc;
}

static int shim_truncate(sqlite3_file *f, sqlite3_int64 size) {
	shim_file *s = (shim_file *)f;
	pthread_mutex_lock(&mu);
	int rc = s->d && step() ? SQLITE_IOERR_TRUNCATE : s->real->pMethods->xTruncate(s->real, size);
	if (rc == SQLITE_OK && s->d && (rc = grow(s->d, size)) == SQLITE_OK) {
		if (size < s->d->cacheSize) memset(s->d->cache + size, 0, s->d->cacheSize - size);
		s->d->cacheSize = size;
		mark(s->d);
	}
	pthread_mutex_unlock(&mu);
	return rc;
}

static int shim_sync(sqlite3_file *f, int flags) {
	shim_file *s = (shim_file *)f;
	disk *d = s->d;
	(void)flags; // nothing here outlives the test: the real disk is left in peace
	if (!d) return SQLITE_OK;
	if (slow) usleep(slow);
	pthread_mutex_lock(&mu);
	int fails = step();
	if (!fails) {
		for (int64_t i = 0; i < d->cap / PAGE; i++)
			if (d->dirty[i]) memcpy(d->data + i * PAGE, d->cache + i * PAGE, PAGE);
		d->size = d->cacheSize;
	} else if (!cut) {
		d->errors++;
	}
	if (d->cap && !cut) memset(d->dirty, 0, d->cap / PAGE);
	fails |= s->errors != d->errors;
	s->errors = d->errors;
	pthread_mutex_unlock(&mu);
	return fails ? SQLITE_IOERR_FSYNC : SQLITE_OK;
}

#define REAL ((shim_file *)f)->real
static int shim_size(sqlite3_file *f, sqlite3_int64 *n) { return REAL->pMethods->xFileSize(REAL, n); }
static int shim_lock(sqlite3_file *f, int l) { return REAL->pMethods->xLock(REAL, l); }
static int shim_unlock(sqlite3_file *f, int l) { return REAL->pMethods->xUnlock(REAL, l); }
static int shim_reserved(sqlite3_file *f, int *r) { return REAL->pMethods->xCheckReservedLock(REAL, r); }
static int shim_control(sqlite3_file *f, int op, void *p) { return REAL->pMethods->xFileControl(REAL, op, p); }
static int shim_sector(sqlite3_file *f) { return REAL->pMethods->xSectorSize(REAL); }
static int shim_device(sqlite3_file *f) { return REAL->pMethods->xDeviceCharacteristics(REAL); }
static int shim_map(sqlite3_file *f, int i, int n, int x, void volatile **p) { return REAL->pMethods->xShmMap(REAL, i, n, x, p); }
static int shim_shmlock(sqlite3_file *f, int o, int n, int l) { return REAL->pMethods->xShmLock(REAL, o, n, l); }
static void shim_barrier(sqlite3_file *f) { REAL->pMethods->xShmBarrier(REAL); }
static int shim_unmap(sqlite3_file *f, int d) { return REAL->pMethods->xShmUnmap(REAL, d); }

static const sqlite3_io_methods methods = {
	2, shim_close, shim_read, shim_write, shim_truncate, shim_sync, shim_size, shim_lock, shim_unlock, shim_reserved,
	shim_control, shim_sector, shim_device, shim_map, shim_shmlock, shim_barrier, shim_unmap,
};

// track finds the file. One that is new, or that somebody wrote past this VFS, is
// taken as synced.
static int track(shim_file *s, const char *path) {
	disk *d = NULL;
	for (int i = 0; i < ndisks; i++)
		if (disks[i].path && !strcmp(disks[i].path, path)) d = &disks[i];
	if (d && is_marked(d)) {
		s->d = d, s->errors = d->errors;
		return SQLITE_OK;
	}
	if (!d && ndisks == MAX_FILES) return SQLITE_NOMEM;
	if (!d) d = &disks[ndisks++];
	sqlite3_int64 size = 0;
	int rc = s->real->pMethods->xFileSize(s->real, &size);
	if (rc == SQLITE_OK) rc = grow(d, size + 1);
	if (rc == SQLITE_OK && size > 0) rc = s->real->pMethods->xRead(s->real, d->data, (int)size, 0);
	if (rc != SQLITE_OK) return rc;
	memcpy(d->cache, d->data, size);
	memset(d->dirty, 0, d->cap / PAGE);
	d->size = d->cacheSize = size;
	free(d->path);
	d->path = strdup(path);
	mark(d);
	s->d = d, s->errors = d->errors;
	return SQLITE_OK;
}

static int shim_open(sqlite3_vfs *v, const char *path, sqlite3_file *f, int flags, int *out) {
	shim_file *s = (shim_file *)f;
	(void)v;
	memset(s, 0, sizeof *s);
	s->real = (sqlite3_file *)(s + 1);
	int rc = real_vfs->xOpen(real_vfs, path, s->real, flags, out);
	if (s->real->pMethods == NULL) return rc;
	s->base.pMethods = &methods;
	if (rc == SQLITE_OK && path && flags & SQLITE_OPEN_TRACKED) {
		pthread_mutex_lock(&mu);
		if (is_watched(path)) rc = track(s, path);
		pthread_mutex_unlock(&mu);
	}
	return rc;
}

static int shim_delete(sqlite3_vfs *v, const char *path, int sync) {
	(void)v;
	pthread_mutex_lock(&mu);
	int rc = is_watched(path) && step() ? SQLITE_IOERR_DELETE : real_vfs->xDelete(real_vfs, path, sync);
	for (int i = 0; i < ndisks && rc == SQLITE_OK; i++)
		if (disks[i].path && !strcmp(disks[i].path, path)) disks[i].path[0] = 0; // forgotten
	pthread_mutex_unlock(&mu);
	return rc;
}

int fv_register(void) {
	if (!sqlite3_vfs_find || !sqlite3_vfs_register) return -1;
	if (real_vfs) return SQLITE_OK;
	real_vfs = sqlite3_vfs_find(NULL);
	if (!real_vfs) return -1;
	shim_vfs = *real_vfs; // what is not replaced works on its own
	shim_vfs.iVersion = 2;
	shim_vfs.szOsFile = sizeof(shim_file) + real_vfs->szOsFile;
	shim_vfs.zName = "fault";
	shim_vfs.pNext = NULL;
	shim_vfs.xOpen = shim_open;
	shim_vfs.xDelete = shim_delete;
	return sqlite3_vfs_register(&shim_vfs, 1);
}

void fv_reset(const char *dir) {
	pthread_mutex_lock(&mu);
	free(watched);
	watched = strdup(dir);
	for (int i = 0; i < ndisks; i++) {
		free(disks[i].path), free(disks[i].data), free(disks[i].cache), free(disks[i].dirty);
	}
	memset(disks, 0, sizeof disks);
	ndisks = ops = hits = fail_at = cut = slow = 0;
	pthread_mutex_unlock(&mu);
}

void fv_arm(int at, int count, int mode) {
	pthread_mutex_lock(&mu);
	fail_at = at, fail_count = count, fail_mode = mode, hits = 0;
	pthread_mutex_unlock(&mu);
}

void fv_slow(int microseconds) { slow = microseconds; }

void fv_cut(int on) {
	pthread_mutex_lock(&mu);
	cut = on;
	pthread_mutex_unlock(&mu);
}

static int locked(int *n) {
	pthread_mutex_lock(&mu);
	int v = *n;
	pthread_mutex_unlock(&mu);
	return v;
}

int fv_ops(void) { return locked(&ops); }
int fv_hits(void) { return locked(&hits); }
int fv_files(void) { return locked(&ndisks); }
const char *fv_path(int i) { return disks[i].path; }

// fv_survivors gives what a loss of power leaves of a file: what was synced, and
// about so many percent of the sectors of dirty pages, which may have been on their way.
int fv_survivors(int i, int percent, unsigned seed, char **data, int64_t *size) {
	pthread_mutex_lock(&mu);
	disk *d = &disks[i];
	int64_t n = d->size;
	if (percent > 0 && d->cacheSize > n) n = d->cacheSize;
	unsigned char *p = calloc(1, n + PAGE);
	if (p) {
		memcpy(p, d->data, d->size);
		for (int64_t at = 0; at < n; at += SECTOR)
			if (d->dirty[at / PAGE] && (int)(rand_r(&seed) % 100) < percent) memcpy(p + at, d->cache + at, n - at < SECTOR ? n - at : SECTOR);
	}
	*data = (char *)p;
	*size = n;
	pthread_mutex_unlock(&mu);
	return p ? SQLITE_OK : SQLITE_NOMEM;
}

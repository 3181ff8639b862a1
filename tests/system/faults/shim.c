/* Between a process and its file system: writes down, in order, every change under FAULTS_ROOT, so that the parent can
 * work out what a power failure at any moment may leave. Loaded with LD_PRELOAD; tests/system/faults/shim.py builds it
 * and reads what it writes.
 *
 *   FAULTS_ROOT    absolute path; what lies below is watched, but RocksDB's notes for people (LOG*)
 *   FAULTS_LOG     the record of changes, appended to
 *   FAULTS_SYNC_US an fsync takes up to so many microseconds (at random)
 *
 * A process that forks others calls faults_start in each instead of taking these from its environment.
 *
 * fsync and fdatasync do not reach the disk: what they mean is worked out from the record. A sync makes durable what was
 * written before it began, once it has ended; so both moments are recorded. One lock orders changes and their records.
 *
 * The process may ask for more, through ctypes: faults_full (no write finds room), faults_fail_syncs (the next syncs
 * fail with EIO, and what they should have made durable never will be by a later one), faults_clock (how far
 * CLOCK_REALTIME is off).
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum { OPEN = 1, WRITE, TRUNCATE, SYNC_BEGUN, SYNC_ENDED, CLOSE, RENAME, UNLINK, MKDIR, RMDIR, LINK, SYNC_FAILED, STRANGE };

struct entry { uint32_t op; int32_t fd; int64_t at; uint32_t length, length2; };

#define FDS 65536
static char watched[FDS];  /* 2: directly in the root, where there is always room: for what the process says */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char root[PATH_MAX];
static size_t root_length;
static int log_fd = -1;
static unsigned sync_us, seed = 1;
static volatile int full, failing_syncs;
static volatile int64_t clock_off_ns;

#define REAL(result, name, ...) \
    static result (*real_##name)(__VA_ARGS__); \
    if (!real_##name) real_##name = (result (*)(__VA_ARGS__))dlsym(RTLD_NEXT, #name)

void faults_full(int on) { full = on; }
void faults_fail_syncs(int count) { failing_syncs = count; }
void faults_clock(int64_t off_ms) { clock_off_ns = off_ms * 1000000; }

static ssize_t put(const void *bytes, size_t length) {
    REAL(ssize_t, write, int, const void *, size_t);
    const char *at = bytes;
    size_t left = length;
    while (left) {
        ssize_t done = real_write(log_fd, at, left);
        if (done < 0) { if (errno == EINTR) continue; _exit(86); }
        at += done; left -= (size_t)done;
    }
    return (ssize_t)length;
}

static void record(int op, int fd, int64_t at, const void *one, size_t length, const void *two, size_t length2) {
    int kept = errno;
    struct entry entry = {(uint32_t)op, fd, at, (uint32_t)length, (uint32_t)length2};
    put(&entry, sizeof entry);
    if (length) put(one, length);
    if (length2) put(two, length2);
    errno = kept;
}

void faults_start(const char *watch, const char *log, int us) {
    REAL(int, open, const char *, int, ...);
    int fd = real_open(log, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0644);
    if (fd < 0) _exit(87);
    log_fd = fcntl(fd, F_DUPFD_CLOEXEC, 500);
    close(fd);
    snprintf(root, sizeof root, "%s", watch);
    root_length = strlen(root);
    sync_us = us > 0 ? (unsigned)us : 0;
    seed = (unsigned)getpid();
}

static void begin(void) __attribute__((constructor));
static void begin(void) {
    const char *watch = getenv("FAULTS_ROOT"), *log = getenv("FAULTS_LOG"), *us = getenv("FAULTS_SYNC_US");
    if (watch && log) faults_start(watch, log, us ? atoi(us) : 0);
    unsetenv("LD_PRELOAD");  /* not for children */
}

static int interesting(const char *path) {
    if (log_fd < 0 || !path || strncmp(path, root, root_length) != 0) return 0;
    if (path[root_length] != '/' && path[root_length] != 0) return 0;
    const char *name = strrchr(path, '/');
    return strncmp(name, "/LOG", 4) != 0;
}

static int is_watched(int fd) { return fd >= 0 && fd < FDS && watched[fd]; }

/* Opening */

static int opened(int fd, const char *path, int existed, int flags) {
    if (fd >= 0 && fd < FDS) {
        watched[fd] = strchr(path + root_length + (path[root_length] != 0), '/') ? 1 : 2;
        int64_t how = (existed ? 0 : 1) | ((flags & O_TRUNC) ? 2 : 0);
        record(OPEN, fd, how, path, strlen(path), 0, 0);
    }
    return fd;
}

static int exists(const char *path) {
    struct stat stat_;
    int kept = errno, found = lstat(path, &stat_) == 0;
    errno = kept;
    return found;
}

#define OPENER(call) \
    mode_t mode = 0; \
    if (flags & (O_CREAT | __O_TMPFILE)) { va_list list; va_start(list, flags); mode = va_arg(list, mode_t); va_end(list); } \
    if (!interesting(path)) return call; \
    pthread_mutex_lock(&lock); \
    int existed = exists(path), fd = -1; \
    if (full && !existed && (flags & O_CREAT)) errno = ENOSPC; \
    else fd = opened(call, path, existed, flags); \
    pthread_mutex_unlock(&lock); \
    return fd;

int open(const char *path, int flags, ...) {
    REAL(int, open, const char *, int, ...);
    OPENER(real_open(path, flags, mode))
}
int open64(const char *path, int flags, ...) {
    REAL(int, open64, const char *, int, ...);
    OPENER(real_open64(path, flags, mode))
}
int openat(int folder, const char *path, int flags, ...) {
    REAL(int, openat, int, const char *, int, ...);
    OPENER(real_openat(folder, path, flags, mode))
}
int openat64(int folder, const char *path, int flags, ...) {
    REAL(int, openat64, int, const char *, int, ...);
    OPENER(real_openat64(folder, path, flags, mode))
}
int creat(const char *path, mode_t mode) { return open(path, O_CREAT | O_WRONLY | O_TRUNC, mode); }

int close(int fd) {
    REAL(int, close, int);
    if (!is_watched(fd)) return real_close(fd);
    pthread_mutex_lock(&lock);
    watched[fd] = 0;
    record(CLOSE, fd, 0, 0, 0, 0, 0);
    int result = real_close(fd);
    pthread_mutex_unlock(&lock);
    return result;
}

/* Writing */

static int64_t position(int fd) {
    int flags = fcntl(fd, F_GETFL);
    if (flags & O_APPEND) { struct stat stat_; return fstat(fd, &stat_) ? 0 : stat_.st_size; }
    return lseek(fd, 0, SEEK_CUR);
}

static int refused(int fd, int64_t end) {
    /* Overwriting needs no room. */
    struct stat stat_;
    if (!full || watched[fd] == 2 || fstat(fd, &stat_) || end <= stat_.st_size) return 0;
    errno = ENOSPC;
    return 1;
}

ssize_t write(int fd, const void *bytes, size_t length) {
    REAL(ssize_t, write, int, const void *, size_t);
    if (!is_watched(fd)) return real_write(fd, bytes, length);
    pthread_mutex_lock(&lock);
    int64_t at = position(fd);
    ssize_t done = refused(fd, at + (int64_t)length) ? -1 : real_write(fd, bytes, length);
    if (done > 0) record(WRITE, fd, at, bytes, (size_t)done, 0, 0);
    pthread_mutex_unlock(&lock);
    return done;
}

static ssize_t written_at(int fd, const void *bytes, size_t length, int64_t at) {
    REAL(ssize_t, pwrite, int, const void *, size_t, off_t);
    if (!is_watched(fd)) return real_pwrite(fd, bytes, length, at);
    pthread_mutex_lock(&lock);
    ssize_t done = refused(fd, at + (int64_t)length) ? -1 : real_pwrite(fd, bytes, length, at);
    if (done > 0) record(WRITE, fd, at, bytes, (size_t)done, 0, 0);
    pthread_mutex_unlock(&lock);
    return done;
}
ssize_t pwrite(int fd, const void *bytes, size_t length, off_t at) { return written_at(fd, bytes, length, at); }
ssize_t pwrite64(int fd, const void *bytes, size_t length, off64_t at) { return written_at(fd, bytes, length, at); }

ssize_t writev(int fd, const struct iovec *parts, int count) {
    REAL(ssize_t, writev, int, const struct iovec *, int);
    if (!is_watched(fd)) return real_writev(fd, parts, count);
    ssize_t total = 0;
    for (int index = 0; index < count; index++) {
        ssize_t done = write(fd, parts[index].iov_base, parts[index].iov_len);
        if (done < 0) return total ? total : done;
        total += done;
        if ((size_t)done < parts[index].iov_len) break;
    }
    return total;
}

static int truncated(int fd, int64_t length) {
    REAL(int, ftruncate, int, off_t);
    if (!is_watched(fd)) return real_ftruncate(fd, length);
    pthread_mutex_lock(&lock);
    int result = real_ftruncate(fd, length);
    if (result == 0) record(TRUNCATE, fd, length, 0, 0, 0, 0);
    pthread_mutex_unlock(&lock);
    return result;
}
int ftruncate(int fd, off_t length) { return truncated(fd, length); }
int ftruncate64(int fd, off64_t length) { return truncated(fd, length); }

/* What would escape the record is put into it, and fails the test. */

static void strange(const char *what) {
    pthread_mutex_lock(&lock);
    record(STRANGE, -1, 0, what, strlen(what), 0, 0);
    pthread_mutex_unlock(&lock);
}

void *mmap(void *where, size_t length, int protection, int flags, int fd, off_t at) {
    REAL(void *, mmap, void *, size_t, int, int, int, off_t);
    if (is_watched(fd) && (protection & PROT_WRITE) && (flags & MAP_SHARED)) strange("mmap");
    return real_mmap(where, length, protection, flags, fd, at);
}
int fallocate(int fd, int mode, off_t at, off_t length) {
    REAL(int, fallocate, int, int, off_t, off_t);
    if (is_watched(fd) && !(mode & FALLOC_FL_KEEP_SIZE)) strange("fallocate");
    return real_fallocate(fd, mode, at, length);
}
int dup2(int from, int to) {
    REAL(int, dup2, int, int);
    if (is_watched(from)) strange("dup2");
    return real_dup2(from, to);
}
int dup(int from) {
    REAL(int, dup, int);
    if (is_watched(from)) strange("dup");
    return real_dup(from);
}

/* Syncing */

static int synced(int fd) {
    pthread_mutex_lock(&lock);
    record(SYNC_BEGUN, fd, gettid(), 0, 0, 0, 0);
    unsigned pause = sync_us ? (unsigned)rand_r(&seed) % sync_us : 0;
    pthread_mutex_unlock(&lock);
    if (pause) usleep(pause);
    pthread_mutex_lock(&lock);
    int fails = failing_syncs > 0;
    if (fails) failing_syncs--;
    record(fails ? SYNC_FAILED : SYNC_ENDED, fd, gettid(), 0, 0, 0, 0);
    pthread_mutex_unlock(&lock);
    if (fails) errno = EIO;
    return fails ? -1 : 0;
}
int fsync(int fd) {
    REAL(int, fsync, int);
    return is_watched(fd) ? synced(fd) : real_fsync(fd);
}
int fdatasync(int fd) {
    REAL(int, fdatasync, int);
    return is_watched(fd) ? synced(fd) : real_fdatasync(fd);
}

/* Names */

int rename(const char *from, const char *to) {
    REAL(int, rename, const char *, const char *);
    if (!interesting(from) && !interesting(to)) return real_rename(from, to);
    pthread_mutex_lock(&lock);
    int result = real_rename(from, to);
    if (result == 0) record(RENAME, -1, 0, from, strlen(from), to, strlen(to));
    pthread_mutex_unlock(&lock);
    return result;
}
int link(const char *from, const char *to) {
    REAL(int, link, const char *, const char *);
    if (!interesting(from) && !interesting(to)) return real_link(from, to);
    pthread_mutex_lock(&lock);
    int result = real_link(from, to);
    if (result == 0) record(LINK, -1, 0, from, strlen(from), to, strlen(to));
    pthread_mutex_unlock(&lock);
    return result;
}

#define NAMED(op, refuse, call) \
    if (!interesting(path)) return call; \
    pthread_mutex_lock(&lock); \
    int result = -1; \
    if (refuse) errno = ENOSPC; else result = call; \
    if (result == 0) record(op, -1, 0, path, strlen(path), 0, 0); \
    pthread_mutex_unlock(&lock); \
    return result;

int unlink(const char *path) {
    REAL(int, unlink, const char *);
    NAMED(UNLINK, 0, real_unlink(path))
}
int rmdir(const char *path) {
    REAL(int, rmdir, const char *);
    NAMED(RMDIR, 0, real_rmdir(path))
}
int mkdir(const char *path, mode_t mode) {
    REAL(int, mkdir, const char *, mode_t);
    NAMED(MKDIR, full, real_mkdir(path, mode))
}

/* The clock */

int clock_gettime(clockid_t which, struct timespec *now) {
    REAL(int, clock_gettime, clockid_t, struct timespec *);
    int result = real_clock_gettime(which, now);
    if (result == 0 && clock_off_ns && (which == CLOCK_REALTIME || which == CLOCK_REALTIME_COARSE)) {
        int64_t ns = now->tv_sec * 1000000000LL + now->tv_nsec + clock_off_ns;
        now->tv_sec = ns / 1000000000LL;
        now->tv_nsec = ns % 1000000000LL;
    }
    return result;
}

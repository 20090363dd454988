// Appends records to a journal of rows.
#include "row_records.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "checksum.h"

namespace {

constexpr int64_t PARTS = 1024;  // of one call of the system (IOV_MAX)

// What stands before a payload, little-endian as every machine that the kernels are built for.
struct Head {
    char kind[4];
    uint32_t payload_checksum;
    uint64_t payload_bytes;
    uint32_t checksum;  // of the 16 bytes before
} __attribute__((packed));
static_assert(sizeof(Head) == 20, "the reader expects 20 bytes");

Head head_of(const RecfxRowRecord& record) {
    Head head{{'R', 'O', 'W', 'S'}, 0, 0, 0};
    for (int64_t p = 1; p < record.part_count; ++p) {
        head.payload_checksum = recfx::checksum(record.parts[p].iov_base, record.parts[p].iov_len, head.payload_checksum);
        head.payload_bytes += record.parts[p].iov_len;
    }
    head.checksum = recfx::checksum(&head, sizeof(head) - sizeof(head.checksum), 0);
    return head;
}

// Writes bytes that are in several places, one behind the other. False if the system refuses.
bool write_all(int file, iovec* parts, int64_t count, int64_t at) {
    while (count) {
        if (!parts->iov_len) {
            ++parts, --count;
            continue;
        }
        const ssize_t done = pwritev(file, parts, int(std::min(count, PARTS)), at);
        if (done < 0 && errno == EINTR) continue;
        if (done < 0) return false;
        at += done;
        size_t left = size_t(done);
        for (; left && left >= parts->iov_len; ++parts, --count) left -= parts->iov_len;
        if (left) {
            parts->iov_base = static_cast<char*>(parts->iov_base) + left;
            parts->iov_len -= left;
        }
    }
    return true;
}

bool flush(int file) {
#if defined(__APPLE__)
    return fcntl(file, F_FULLFSYNC) == 0 || fsync(file) == 0;
#else
    return fdatasync(file) == 0;
#endif
}

// Whether a path still leads to an open file.
bool leads_to(const char* path, const struct stat& opened) {
    struct stat found;
    return stat(path, &found) == 0 && found.st_ino == opened.st_ino && found.st_dev == opened.st_dev;
}

}  // namespace

namespace recfx {

RecordWriter::RecordWriter(RecfxRowRecord* record) : record_(record) {}

RecordWriter::~RecordWriter() {
    if (locked_) flock(int(record_->file), LOCK_UN);
}

bool RecordWriter::ready() {
    if (!record_) return true;
    record_->status = RECFX_RECORD_NOT_READY;
    const int file = int(record_->file);
    if (record_->struct_bytes != int64_t(sizeof(*record_)) || record_->part_count < 1) return false;
    if (!record_->locked) {
        if (flock(file, LOCK_EX | LOCK_NB) != 0) return false;
        locked_ = true;
    }
    struct stat opened;
    return fstat(file, &opened) == 0 && opened.st_size == record_->position && leads_to(record_->path, opened);
}

bool RecordWriter::append() {
    if (!record_) return true;
    const int file = int(record_->file);
    Head head = head_of(*record_);
    record_->parts[0] = {&head, sizeof(head)};
    if (write_all(file, record_->parts, record_->part_count, record_->position) && (!record_->to_disk || flush(file))) {
        record_->position += int64_t(sizeof(head)) + int64_t(head.payload_bytes);
        record_->status = RECFX_RECORD_WRITTEN;
        return true;
    }
    record_->error = errno;
    record_->status = RECFX_RECORD_REFUSED;
    // Where the file cannot be cut either, it ends with a record that is not complete: the next writer removes it.
    if (ftruncate(file, record_->position) != 0) return false;
    return false;
}

}  // namespace recfx

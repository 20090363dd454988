// Records of a journal of rows, in the form that recfx/formats/row_journal.py reads; see row_records.cpp.
#pragma once
#include <cstdint>

#include "row_writes.h"

namespace recfx {

// Holds the lock of a journal while it lives, and appends one record.
class RecordWriter {
public:
    // `record` may be null: there is no journal.
    explicit RecordWriter(RecfxRowRecord* record);
    ~RecordWriter();
    RecordWriter(const RecordWriter&) = delete;
    RecordWriter& operator=(const RecordWriter&) = delete;

    // Whether the record may be appended: the lock is held, and the file is as the writer knows it. Otherwise the status says why not.
    bool ready();
    // Appends the record. False if the system refuses; the file is then as before.
    bool append();

private:
    bool locked_ = false;
    RecfxRowRecord* record_;
};

}  // namespace recfx

// The Python module: calls of plans. They go through Python's own calling convention, because ctypes takes more than a microsecond to convert
// their arguments. All other functions of the library are called through ctypes.
#define Py_LIMITED_API 0x030b0000
#include <Python.h>

#include "plan.h"

namespace {

enum Argument { HANDLE, BATCH, THREADS, FIRST_POINTER };
constexpr Py_ssize_t FEW = 64;

PyObject* run_plan(const int64_t* values, const int64_t* counts) {
    int64_t code;
    Py_BEGIN_ALLOW_THREADS;
    code = recfx_run(reinterpret_cast<void*>(values[HANDLE]), values[BATCH], values[THREADS], values + FIRST_POINTER, counts);
    Py_END_ALLOW_THREADS;
    return PyLong_FromLongLong(code);
}

// False, with a Python exception set, where an argument is not an integer of 64 bits.
bool read_integers(PyObject* const* arguments, Py_ssize_t count, int64_t* values) {
    for (Py_ssize_t i = 0; i < count; ++i) {
        values[i] = PyLong_AsLongLong(arguments[i]);
        if (values[i] == -1 && PyErr_Occurred()) return false;
    }
    return true;
}

// Runs a plan: its handle, the batch, the threads, the pointers; if `counted`, then the number of elements behind each pointer.
PyObject* run_arguments(PyObject* const* arguments, Py_ssize_t count, bool counted) {
    const Py_ssize_t pointers = count - FIRST_POINTER;
    if (pointers < 0 || (counted && pointers % 2)) {
        PyErr_SetString(PyExc_TypeError, "a plan takes its handle, the batch, the threads and its pointers");
        return nullptr;
    }
    int64_t few[FEW];
    int64_t* values = count <= FEW ? few : static_cast<int64_t*>(PyMem_Malloc(size_t(count) * sizeof(int64_t)));
    if (!values) return PyErr_NoMemory();
    PyObject* code = nullptr;
    if (read_integers(arguments, count, values)) code = run_plan(values, counted ? values + FIRST_POINTER + pointers / 2 : nullptr);
    if (values != few) PyMem_Free(values);
    return code;
}

PyObject* run(PyObject*, PyObject* const* arguments, Py_ssize_t count) { return run_arguments(arguments, count, false); }

PyObject* run_counted(PyObject*, PyObject* const* arguments, Py_ssize_t count) { return run_arguments(arguments, count, true); }

template <PyObject* (*Function)(PyObject*, PyObject* const*, Py_ssize_t)>
PyCFunction fast_call() {
    return reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(Function));
}

PyMethodDef methods[] = {
    {"run", fast_call<run>(), METH_FASTCALL, "run(handle, batch, threads, *pointers): runs a plan; returns 0 or the code of an error."},
    {"run_counted", fast_call<run_counted>(), METH_FASTCALL, "run_counted(handle, batch, threads, *pointers, *counts): the same with counts of elements."},
    {nullptr, nullptr, 0, nullptr},
};
PyModuleDef_Slot slots[] = {{0, nullptr}};
PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_kernels", "The native kernels of recfx.", 0, methods, slots, nullptr, nullptr, nullptr};

}  // namespace

PyMODINIT_FUNC PyInit__kernels() { return PyModuleDef_Init(&definition); }

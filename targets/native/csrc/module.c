/* An empty Python module: setuptools builds and names the library as an extension; its functions are reached through ctypes. */
#define Py_LIMITED_API 0x030b0000
#include <Python.h>

static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_kernels", "Native kernels of recfx; loaded with ctypes.", -1, NULL, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__kernels(void) { return PyModule_Create(&definition); }

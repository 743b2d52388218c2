// The Python module `lvm_runtime.native._engine`. Arrays come through the buffer protocol; the interpreter lock is let
// go of while an engine is built and while it runs.
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <algorithm>
#include <limits>
#include <new>
#include <string>

#include "engine.h"

namespace {

PyObject* file_error;  // lvm_runtime's ArtifactError is made of it in Python

struct EngineObject {
    PyObject_HEAD
    lvm::Engine* engine;
};

// A borrowed buffer, given back at the end.
struct View {
    Py_buffer buffer{};
    bool held = false;

    bool take(PyObject* object, int flags) { return held = PyObject_GetBuffer(object, &buffer, flags) == 0; }
    ~View() {
        if (held) PyBuffer_Release(&buffer);
    }
    bool is_floats() const { return buffer.format && buffer.format[0] == 'f' && !buffer.format[1]; }
    Py_ssize_t floats() const { return buffer.len / 4; }
};

PyObject* engine_new(PyTypeObject* type, PyObject* arguments, PyObject* keywords) {
    static const char* names[] = {"file", "path", "threads", nullptr};
    PyObject* file;
    const char* path = "";
    int threads = 1;
    if (!PyArg_ParseTupleAndKeywords(arguments, keywords, "O|si", const_cast<char**>(names), &file, &path, &threads))
        return nullptr;
    View view;
    if (!view.take(file, PyBUF_SIMPLE)) return nullptr;
    lvm::Engine* engine = nullptr;
    std::string problem;
    PyObject* kind = nullptr;
    Py_BEGIN_ALLOW_THREADS;
    try {
        engine = new lvm::Engine(static_cast<const uint8_t*>(view.buffer.buf), static_cast<size_t>(view.buffer.len), path, threads);
    } catch (const lvm::FileError& error) {
        kind = file_error, problem = error.what();
    } catch (const std::invalid_argument& error) {
        kind = PyExc_ValueError, problem = error.what();
    } catch (const std::exception& error) {  // no memory, no threads
        kind = PyExc_RuntimeError, problem = error.what();
    }
    Py_END_ALLOW_THREADS;
    if (!engine) {
        PyObject* text = PyUnicode_DecodeUTF8(problem.data(), static_cast<Py_ssize_t>(problem.size()), "replace");
        if (text) PyErr_SetObject(kind, text);
        Py_XDECREF(text);
        return nullptr;
    }
    PyObject* self = PyType_GenericAlloc(type, 0);
    if (self)
        reinterpret_cast<EngineObject*>(self)->engine = engine;
    else
        delete engine;
    return self;
}

void engine_dealloc(PyObject* self) {
    PyTypeObject* type = Py_TYPE(self);
    lvm::Engine* engine = reinterpret_cast<EngineObject*>(self)->engine;
    Py_BEGIN_ALLOW_THREADS;
    delete engine;
    Py_END_ALLOW_THREADS;
    PyObject_Free(self);
    Py_DECREF(type);
}

constexpr int readable = PyBUF_C_CONTIGUOUS | PyBUF_FORMAT, writable = readable | PyBUF_WRITABLE;
constexpr const char* wrong_arrays = "the arrays are not float32, or not of the plan's sizes";

// Borrow the arrays of a run, or set a Python error.
bool take_arrays(const lvm::Plan& plan, PyObject* from, PyObject* to, View& input, View& prediction) {
    if (!input.take(from, readable) || !prediction.take(to, writable)) return false;
    int64_t windows = prediction.floats() / plan.dim;
    int64_t vectors = plan.sequence ? windows + plan.length - 1 : windows * plan.length;
    if (input.is_floats() && prediction.is_floats() && windows > 0 && prediction.floats() == windows * plan.dim &&
        input.floats() == vectors * plan.dim)
        return true;
    PyErr_SetString(PyExc_ValueError, wrong_arrays);
    return false;
}

// run(input, prediction, attention=None, largest_norm=None): fill `prediction` [windows, D] and `attention` [windows, T];
// False if a vector is not finite or longer than that.
PyObject* engine_run(PyObject* self, PyObject* const* arguments, Py_ssize_t count) {
    lvm::Engine& engine = *reinterpret_cast<EngineObject*>(self)->engine;
    const lvm::Plan& plan = engine.plan();
    if (count < 2 || count > 4) {
        PyErr_SetString(PyExc_TypeError, "run takes an input, a prediction and perhaps an attention and a largest norm");
        return nullptr;
    }
    View input, prediction, attention;
    if (!take_arrays(plan, arguments[0], arguments[1], input, prediction)) return nullptr;
    int64_t windows = prediction.floats() / plan.dim;
    bool wanted = count > 2 && arguments[2] != Py_None;
    if (wanted && !attention.take(arguments[2], writable)) return nullptr;
    if (wanted && (plan.attention < 0 || !attention.is_floats() || attention.floats() != windows * plan.length)) {
        PyErr_SetString(PyExc_ValueError, wrong_arrays);
        return nullptr;
    }
    float most = lvm::Engine::no_limit;
    if (count == 4 && arguments[3] != Py_None) {
        double norm = PyFloat_AsDouble(arguments[3]);
        if (norm == -1 && PyErr_Occurred()) return nullptr;
        most = static_cast<float>(std::min<double>(norm * norm, std::numeric_limits<float>::max()));
    }
    bool done = true, usable = true;
    Py_BEGIN_ALLOW_THREADS;
    try {
        usable = engine.run(static_cast<const float*>(input.buffer.buf), windows, static_cast<float*>(prediction.buffer.buf),
                            wanted ? static_cast<float*>(attention.buffer.buf) : nullptr, most);
    } catch (const std::bad_alloc&) {
        done = false;
    }
    Py_END_ALLOW_THREADS;
    if (!done) return PyErr_NoMemory();
    return PyBool_FromLong(usable);
}

// profile(input, prediction): fill `prediction` on this thread; return a list of (step, seconds).
PyObject* engine_profile(PyObject* self, PyObject* arguments) {
    lvm::Engine& engine = *reinterpret_cast<EngineObject*>(self)->engine;
    PyObject *from, *to;
    if (!PyArg_ParseTuple(arguments, "OO", &from, &to)) return nullptr;
    View input, prediction;
    if (!take_arrays(engine.plan(), from, to, input, prediction)) return nullptr;
    std::vector<std::pair<std::string, double>> steps;
    Py_BEGIN_ALLOW_THREADS;
    steps = engine.profile(static_cast<const float*>(input.buffer.buf), prediction.floats() / engine.plan().dim,
                           static_cast<float*>(prediction.buffer.buf));
    Py_END_ALLOW_THREADS;
    PyObject* list = PyList_New(0);
    for (const auto& [name, seconds] : steps) {
        PyObject* step = list ? Py_BuildValue("(sd)", name.c_str(), seconds) : nullptr;
        if (!step || PyList_Append(list, step) < 0) Py_CLEAR(list);
        Py_XDECREF(step);
    }
    return list;
}

PyObject* engine_about(PyObject* self, void*) {
    const lvm::Engine& engine = *reinterpret_cast<EngineObject*>(self)->engine;
    const lvm::Plan& plan = engine.plan();
    return Py_BuildValue("{s:s,s:s,s:s,s:L,s:L,s:s,s:s,s:i,s:O}", "architecture", plan.architecture.c_str(), "form",
                         plan.sequence ? "sequence" : "context", "precision", plan.precision.c_str(), "context_length",
                         static_cast<long long>(plan.length), "dim", static_cast<long long>(plan.dim), "path",
                         engine.path().name, "instructions",
                         plan.in_floats() ? engine.path().what_floats : engine.path().what, "threads", engine.threads(),
                         "has_attention", plan.attention >= 0 ? Py_True : Py_False);
}

// The names of the CPU paths that run here, the fastest first.
PyObject* paths(PyObject*, PyObject*) {
    PyObject* names = PyList_New(0);
    for (const lvm::Path* path : lvm::all_paths()) {
        if (!names || !path->available()) continue;
        PyObject* name = PyUnicode_FromString(path->name);
        if (!name || PyList_Append(names, name) < 0) Py_CLEAR(names);
        Py_XDECREF(name);
    }
    return names;
}

PyMethodDef engine_methods[] = {
    {"run", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(engine_run)), METH_FASTCALL,
     "run(input, prediction, attention=None, largest_norm=None): fill the arrays with the answers to the input; False if a "
     "vector is not finite or longer than that."},
    {"profile", engine_profile, METH_VARARGS,
     "profile(input, prediction): fill the array on this thread; return what each step is and its seconds."},
    {nullptr, nullptr, 0, nullptr}};

PyGetSetDef engine_properties[] = {
    {"about", engine_about, nullptr, "What the plan says of itself, the CPU path and the threads.", nullptr},
    {nullptr, nullptr, nullptr, nullptr, nullptr}};

PyType_Slot engine_slots[] = {
    {Py_tp_doc, const_cast<char*>("Engine(file, path='', threads=1): a plan that is ready to run, from a native file's bytes.")},
    {Py_tp_new, reinterpret_cast<void*>(engine_new)},
    {Py_tp_dealloc, reinterpret_cast<void*>(engine_dealloc)},
    {Py_tp_methods, engine_methods},
    {Py_tp_getset, engine_properties},
    {0, nullptr}};

PyType_Spec engine_spec = {"lvm_runtime.native._engine.Engine", sizeof(EngineObject), 0, Py_TPFLAGS_DEFAULT, engine_slots};

// spin(path, rounds): multiply in registers alone, and return how many multiply-adds that were.
PyObject* spin(PyObject*, PyObject* arguments) {
    const char* name;
    long long rounds, done;
    if (!PyArg_ParseTuple(arguments, "sL", &name, &rounds)) return nullptr;
    const lvm::Path* path = nullptr;
    try {
        path = &lvm::find_path(name);
    } catch (const std::invalid_argument& error) {
        PyErr_SetString(PyExc_ValueError, error.what());
        return nullptr;
    }
    Py_BEGIN_ALLOW_THREADS;
    done = path->spin(rounds);
    Py_END_ALLOW_THREADS;
    return PyLong_FromLongLong(done);
}

PyMethodDef functions[] = {
    {"spin", spin, METH_VARARGS, "spin(path, rounds): multiply in registers alone; return the number of multiply-adds."},
    {"paths", paths, METH_NOARGS, "Return the names of the CPU paths that run here, the fastest first."},
    {nullptr, nullptr, 0, nullptr}};

PyModuleDef module = {PyModuleDef_HEAD_INIT, "_engine", "Plans on the CPU, in int8 and fp32.", -1, functions, nullptr, nullptr, nullptr, nullptr};

}  // namespace

PyMODINIT_FUNC PyInit__engine() {
    PyObject* self = PyModule_Create(&module);
    if (!self) return nullptr;
    file_error = PyErr_NewException("lvm_runtime.native._engine.FileError", PyExc_ValueError, nullptr);
    PyObject* engine = PyType_FromSpec(&engine_spec);
    if (!file_error || !engine || PyModule_AddObjectRef(self, "FileError", file_error) < 0 ||
        PyModule_AddObjectRef(self, "Engine", engine) < 0)
        Py_CLEAR(self);
    Py_XDECREF(engine);
    return self;
}

// A PJRT plugin that computes nothing but counts everything, for tests of what real plugins do rarely: failing at a
// given call, answering success with null, lacking a function, finishing late.
//
// Argument structs are read as arrays of words: w[0] is the size, w[1] the extension pointer, w[2] the first field.
// indices.h is written by the test: the place of each function in the table, and how many there are.

#include <pthread.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "indices.h"

typedef size_t word;
typedef void *(*function)(word *);
typedef void (*on_ready)(void *error, void *user);

enum kind { ERROR, EVENT, CLIENT, TOPOLOGY, EXECUTABLE, LOADED, BUFFER, BLOB, KINDS };

// What an event becomes: shared by the event's handle and the list of what has not happened yet.
typedef struct future {
  int ready, failed, refs;
  on_ready callback[4];
  void *user[4];
  int callbacks;
  struct future *next;
} future;

typedef struct object {
  enum kind kind;
  int children, deleted;
  struct object *parent;
  int code;
  char message[160];
  future *future;
  int64_t dims[1];
  word size;
} object;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static long live[KINDS], violations, calls;
static long fail_at = -1, null_at = -1, nulls;
static int fail_code = 13, delayed, events_fail, take_on_failure;
static long non_donatable = -1;
static future *waiting;
static word table[5 + FUNCTIONS], original[5 + FUNCTIONS];
static int devices[2];
static word profiler[10], profiler_original[10];
static word extensions[2][4];

// ---- What the tests see and set ----

long fake_live(void) {
  long sum = 0;
  for (int kind = 0; kind < KINDS; kind++) sum += live[kind];
  return sum;
}
long fake_clients(void) { return live[CLIENT]; }
long fake_violations(void) { return violations; }
long fake_calls(void) { return calls; }
long fake_non_donatable(void) { return non_donatable; }
// From now on the n-th call fails, counting from 0; -1 for none.
void fake_fail_at(long n, int code) { calls = 0; fail_at = n; fail_code = code; }
// From now on the n-th object is null; -1 for none.
void fake_null_at(long n) { nulls = 0; null_at = n; }
long fake_objects(void) { return nulls; }
void fake_delay(int on) { delayed = on; }
void fake_events_fail(int on) { events_fail = on; }
void fake_take_on_failure(int on) { take_on_failure = on; }
void fake_remove(int index) { table[5 + index] = 0; }
void fake_restore(int index) { table[5 + index] = original[5 + index]; }
// The sizes that the profiler extension and its table claim, and its functions: without number `index`.
void fake_profiler_extension(int size) { extensions[1][0] = size; }
void fake_profiler_table(int size) { profiler[0] = size; }
void fake_profiler_remove(int index) { profiler[index] = 0; }
void fake_profiler_restore(int index) { profiler[index] = profiler_original[index]; }

// ---- Objects ----

static object *make(enum kind kind, object *parent) {
  pthread_mutex_lock(&lock);
  object *o = NULL;
  if (kind == ERROR || nulls++ != null_at) {
    o = calloc(1, sizeof *o);
    o->kind = kind;
    o->parent = parent;
    if (parent) parent->children++;
    live[kind]++;
  }
  pthread_mutex_unlock(&lock);
  return o;
}

static void release(future *f) {
  if (f && --f->refs == 0) free(f);
}

static void unmake(object *o, enum kind kind) {
  pthread_mutex_lock(&lock);
  if (!o || o->kind != kind || o->children) {
    violations++;
  } else {
    if (o->parent) o->parent->children--;
    live[kind]--;
    o->kind = KINDS;
    release(o->future);
    free(o);
  }
  pthread_mutex_unlock(&lock);
}

static object *error(int code, const char *message) {
  object *o = make(ERROR, NULL);
  o->code = code;
  strncpy(o->message, message, sizeof o->message - 1);
  return o;
}

static object *event(void) {
  object *o = make(EVENT, NULL);
  if (!o) return o;
  o->future = calloc(1, sizeof *o->future);
  o->future->refs = 1;
  o->future->failed = events_fail;
  if (delayed) {
    pthread_mutex_lock(&lock);
    o->future->refs++;
    o->future->next = waiting;
    waiting = o->future;
    pthread_mutex_unlock(&lock);
  } else {
    o->future->ready = 1;
  }
  return o;
}

static object *outcome(future *f) { return f->failed ? error(8, "no room on the device") : NULL; }

// Everything that was started comes to its end.
void fake_finish(void) {
  while (waiting) {
    pthread_mutex_lock(&lock);
    future *f = waiting;
    waiting = f->next;
    f->ready = 1;
    pthread_mutex_unlock(&lock);
    for (int i = 0; i < f->callbacks; i++) f->callback[i](outcome(f), f->user[i]);
    pthread_mutex_lock(&lock);
    release(f);
    pthread_mutex_unlock(&lock);
  }
}

static object *check(word *w, word words, const char *name) {
  if (w[0] < 8 * words) return error(3, "the struct is too small");
  if (w[1]) return error(3, "there is an extension");
  if (calls++ == fail_at) return error(fail_code, name);
  return NULL;
}

// A function of the table whose struct has at least that many words.
#define DEFINE(name, words)                             \
  static void name##_body(word *w);                     \
  static void *name##_entry(word *w) {                  \
    object *refused = check(w, words, #name " refused"); \
    if (refused) return refused;                        \
    name##_body(w);                                     \
    return NULL;                                        \
  }                                                     \
  static void name##_body(word *w)

// ---- Errors and events ----

static void *error_destroy(word *w) { unmake((object *)w[2], ERROR); return NULL; }
static void *error_message(word *w) {
  object *o = (object *)w[2];
  w[3] = (word)o->message;
  w[4] = strlen(o->message);
  return NULL;
}
static void *error_code(word *w) { *(int *)&w[3] = ((object *)w[2])->code; return NULL; }

static void *event_destroy(word *w) { unmake((object *)w[2], EVENT); return NULL; }
DEFINE(event_is_ready, 4) { *(char *)&w[3] = ((object *)w[2])->future->ready; }
static void *event_await(word *w) {
  object *refused = check(w, 3, "event_await refused");
  if (refused) return refused;
  future *f = ((object *)w[2])->future;
  while (!*(volatile int *)&f->ready) usleep(1000);
  return outcome(f);
}
DEFINE(event_on_ready, 5) {
  future *f = ((object *)w[2])->future;
  on_ready callback = (on_ready)w[3];
  pthread_mutex_lock(&lock);
  int now = f->ready;
  if (!now) {
    f->callback[f->callbacks] = callback;
    f->user[f->callbacks++] = (void *)w[4];
  }
  pthread_mutex_unlock(&lock);
  if (now) callback(outcome(f), (void *)w[4]);
}

// ---- Clients, devices, topologies ----

DEFINE(initialize, 2) { (void)w; }

static word named[2][7] = {
    {56, 0, (word) "coords", 6, 2, 0, 3},
    {56, 0, (word) "fake_version", 12, 1, 7, 1},
};
static int64_t coords[3] = {0, 1, 0};
static void attributes(word *items, word *len) {
  named[0][5] = (word)coords;
  *items = (word)named;
  *len = 2;
}
DEFINE(plugin_attributes, 4) { attributes(&w[2], &w[3]); }

struct kv_get { word size, ext; const char *key; word key_size; word timeout; void *make_error, *user; char *value; word value_size; void (*free)(char *); };
struct kv_try { word size, ext; const char *key; word key_size; void *make_error, *user; char *value; word value_size; void (*free)(char *); };
struct kv_put { word size, ext; const char *key; word key_size; const char *value; word value_size; void *make_error, *user; };
static void *make_error(int code, const char *message, word size) {
  char text[160] = {0};
  memcpy(text, message, size < 159 ? size : 159);
  return error(code, text);
}
static void *(*make_error_pointer)(int, const char *, word) = make_error;

// Uses the store as a GPU plugin would: put, get it back, ask for what is not there.
static void *exchange(word *w) {
  struct kv_put put = {sizeof put, 0, "address", 7, "10.0.0.1\0:1234", 14, &make_error_pointer, (void *)w[7]};
  void *failure = ((void *(*)(struct kv_put *))w[6])(&put);
  if (failure) return failure;
  struct kv_get get = {sizeof get, 0, "address", 7, 1500, &make_error_pointer, (void *)w[5]};
  failure = ((void *(*)(struct kv_get *))w[4])(&get);
  if (failure) return failure;
  int same = get.value_size == 14 && !memcmp(get.value, put.value, 14);
  get.free(get.value);
  if (!same) return error(13, "the store returned another value");
  struct kv_try ask = {sizeof ask, 0, "nothing", 7, &make_error_pointer, (void *)w[10]};
  object *absent = ((void *(*)(struct kv_try *))w[9])(&ask);
  if (!absent) return error(13, "the store has what nobody put");
  int code = absent->code;
  unmake(absent, ERROR);
  return code == 5 ? NULL : error(code, "the store answered something else than NOT_FOUND");
}

static void *client_create(word *w) {
  object *refused = check(w, 11, "client_create refused");
  if (refused) return refused;
  if (w[4]) {
    void *failure = exchange(w);
    if (failure) return failure;
  }
  w[8] = (word)make(CLIENT, NULL);
  return NULL;
}
static void *client_destroy(word *w) { unmake((object *)w[2], CLIENT); return NULL; }

static void text(word *w) {
  w[3] = (word) "fake";
  w[4] = 4;
}
DEFINE(some_text, 5) { text(w); }
DEFINE(some_int, 4) { *(int *)&w[3] = 0; }
DEFINE(some_flag, 4) { *(char *)&w[3] = 1; }

static void *device_list[2] = {&devices[0], &devices[1]};
DEFINE(client_devices, 5) {
  w[3] = (word)device_list;
  w[4] = 2;
}
DEFINE(same_object, 4) { w[3] = w[2]; }
DEFINE(device_id, 4) { *(int *)&w[3] = (int)((int *)w[2] - devices); }
static object client_topology = {.kind = TOPOLOGY};
DEFINE(topology_of_client, 4) { w[3] = (word)&client_topology; }
DEFINE(device_assignment, 6) {
  int *ids = (int *)w[5];
  for (word i = 0; i < w[4]; i++) ids[i] = (int)i;
}
DEFINE(description_attributes, 5) { attributes(&w[4], &w[3]); }
DEFINE(memory_stats, 24) {
  w[3] = 1000;
  w[4] = 2000;
  *(char *)&w[5] = 1;
}
DEFINE(topology_create, 7) { w[6] = (word)make(TOPOLOGY, NULL); }
DEFINE(topology_deserialize, 5) { w[4] = (word)make(TOPOLOGY, NULL); }
static void *topology_destroy(word *w) { unmake((object *)w[2], TOPOLOGY); return NULL; }
DEFINE(topology_attributes, 5) { attributes(&w[3], &w[4]); }

static void blob_free(void *blob) { unmake(blob, BLOB); }
DEFINE(serialize, 7) {
  object *blob = make(BLOB, NULL);
  w[3] = (word) "bytes";
  w[4] = 5;
  w[5] = (word)blob;
  // Without a blob there is nothing to free.
  w[6] = blob ? (word)blob_free : 0;
}

// ---- Executables ----

DEFINE(client_compile, 7) { w[6] = (word)make(LOADED, (object *)w[2]); }
DEFINE(deserialize_and_load, 6) { w[5] = (word)make(LOADED, (object *)w[2]); }
DEFINE(compile, 8) { w[7] = (word)make(EXECUTABLE, (object *)w[2] == &client_topology ? NULL : (object *)w[2]); }
static void *loaded_destroy(word *w) { unmake((object *)w[2], LOADED); return NULL; }
static void *executable_destroy(word *w) { unmake((object *)w[2], EXECUTABLE); return NULL; }
DEFINE(get_executable, 4) { w[3] = (word)make(EXECUTABLE, (object *)w[2]); }
DEFINE(count_two, 4) { w[3] = 2; }
static int f32_types[2] = {11, 11};
DEFINE(output_types, 5) {
  w[3] = (word)f32_types;
  w[4] = 2;
}
static int64_t all_dims[3] = {2, 3, 4};
static word ranks[2] = {2, 1};
DEFINE(output_dims, 6) {
  w[3] = 2;
  w[4] = (word)all_dims;
  w[5] = (word)ranks;
}
// Like plugins that do not know the last field, the peak, yet.
DEFINE(executable_memory, 13) {
  for (int i = 3; i < 13; i++) w[i] = i;
}
DEFINE(cost_analysis, 5) { attributes(&w[4], &w[3]); }
DEFINE(optimized_program, 4) {
  word *program = (word *)w[3];
  if (program[2]) memcpy((void *)program[2], "program", 7);
  program[3] = 7;
  program[4] = (word) "fake";
  program[5] = 4;
}

static void *execute(word *w) {
  word *options = (word *)w[3];
  object *refused = options[0] < 8 * 14 ? error(3, "the options are too small") : check(w, 10, "execute refused");
  object ***inputs = (object ***)w[4], ***outputs = (object ***)w[7];
  if (!refused || take_on_failure) {
    for (word device = 0; device < w[5]; device++) {
      for (word i = 0; i < w[6]; i++) {
        int kept = 0;
        for (word k = 0; k < options[8]; k++) kept |= ((int64_t *)options[7])[k] == (int64_t)i;
        inputs[device][i]->deleted |= !kept;
      }
    }
  }
  non_donatable = options[8];
  if (refused) return refused;
  object *client = ((object *)w[2])->parent;
  for (word device = 0; device < w[5]; device++) {
    for (int i = 0; i < 2; i++) {
      outputs[device][i] = make(BUFFER, client);
      if (outputs[device][i]) outputs[device][i]->dims[0] = 4;
    }
    ((object **)w[8])[device] = event();
  }
  return NULL;
}

// ---- Buffers ----

DEFINE(buffer_from_host, 15) {
  object *buffer = make(BUFFER, (object *)w[2]);
  if (buffer) buffer->dims[0] = w[6] ? *(int64_t *)w[5] : 0;
  w[13] = (word)event();
  w[14] = (word)buffer;
}
static void *buffer_destroy(word *w) { unmake((object *)w[2], BUFFER); return NULL; }
DEFINE(buffer_type, 4) { *(int *)&w[3] = 11; }
DEFINE(buffer_dims, 5) {
  w[3] = (word)((object *)w[2])->dims;
  w[4] = 1;
}
DEFINE(buffer_size, 4) { w[3] = 16; }
DEFINE(buffer_delete, 3) { ((object *)w[2])->deleted = 1; }
DEFINE(buffer_is_deleted, 4) { *(char *)&w[3] = ((object *)w[2])->deleted; }
DEFINE(buffer_copy, 5) {
  object *copy = make(BUFFER, ((object *)w[2])->parent);
  if (copy) copy->dims[0] = ((object *)w[2])->dims[0];
  w[4] = (word)copy;
}
DEFINE(buffer_to_host, 7) {
  memset((void *)w[4], 0, w[5]);
  w[6] = (word)event();
}
DEFINE(buffer_ready, 4) { w[3] = (word)event(); }

// ---- The profiler, which records two bytes ----

static void profiler_error_destroy(word *w) { unmake((object *)w[2], ERROR); }
static void profiler_error_message(word *w) {
  w[3] = (word)((object *)w[2])->message;
  w[4] = strlen(((object *)w[2])->message);
}
static void *profiler_create(word *w) {
  if (w[0] != 8 * 4) return error(3, "profiler_create has arguments of another size");
  w[3] = (word)make(BLOB, NULL);
  return NULL;
}
static void *profiler_destroy(word *w) { unmake((object *)w[1], BLOB); return NULL; }
static void *profiler_start(word *w) {
  object *o = (object *)w[1];
  if (o->deleted++) return error(3, "it records already");
  return events_fail ? error(8, "no room for a trace") : NULL;
}
static void *profiler_stop(word *w) { ((object *)w[1])->deleted = 0; return NULL; }
static void *profiler_collect(word *w) {
  w[3] = 2;
  if (w[2]) memcpy((void *)w[2], "ab", 2);
  return NULL;
}

static void set_profiler(void) {
  word functions[10] = {
      sizeof profiler, 0, (word)profiler_error_destroy, (word)profiler_error_message, 0,
      (word)profiler_create, (word)profiler_destroy, (word)profiler_start, (word)profiler_stop,
      (word)profiler_collect};
  memcpy(profiler, functions, sizeof profiler);
  memcpy(profiler_original, functions, sizeof profiler);
  // An extension that nobody knows comes first.
  word unknown[4] = {8 * 3, 99, (word)extensions[1], 0}, known[4] = {8 * 4, 1, 0, (word)profiler};
  memcpy(extensions[0], unknown, sizeof unknown);
  memcpy(extensions[1], known, sizeof known);
  table[1] = (word)extensions[0];
}

static void set(int index, function f) { original[5 + index] = table[5 + index] = (word)f; }

void *GetPjrtApi(void) {
  if (table[0]) return table;
  table[0] = sizeof table;
  table[2] = 24;
  set_profiler();
  ((int *)&table[4])[0] = 0;
  ((int *)&table[4])[1] = 90;
  set(PJRT_Error_Destroy, error_destroy);
  set(PJRT_Error_Message, error_message);
  set(PJRT_Error_GetCode, error_code);
  set(PJRT_Plugin_Initialize, initialize_entry);
  set(PJRT_Plugin_Attributes, plugin_attributes_entry);
  set(PJRT_Event_Destroy, event_destroy);
  set(PJRT_Event_IsReady, event_is_ready_entry);
  set(PJRT_Event_Await, event_await);
  set(PJRT_Event_OnReady, event_on_ready_entry);
  set(PJRT_Client_Create, client_create);
  set(PJRT_Client_Destroy, client_destroy);
  set(PJRT_Client_PlatformName, some_text_entry);
  set(PJRT_Client_PlatformVersion, some_text_entry);
  set(PJRT_Client_ProcessIndex, some_int_entry);
  set(PJRT_Client_Devices, client_devices_entry);
  set(PJRT_Client_AddressableDevices, client_devices_entry);
  set(PJRT_Client_TopologyDescription, topology_of_client_entry);
  set(PJRT_Client_DefaultDeviceAssignment, device_assignment_entry);
  set(PJRT_Client_Compile, client_compile_entry);
  set(PJRT_Client_BufferFromHostBuffer, buffer_from_host_entry);
  set(PJRT_Device_GetDescription, same_object_entry);
  set(PJRT_Device_IsAddressable, some_flag_entry);
  set(PJRT_Device_LocalHardwareId, some_int_entry);
  set(PJRT_Device_MemoryStats, memory_stats_entry);
  set(PJRT_DeviceDescription_Id, device_id_entry);
  set(PJRT_DeviceDescription_ProcessIndex, some_int_entry);
  set(PJRT_DeviceDescription_Kind, some_text_entry);
  set(PJRT_DeviceDescription_ToString, some_text_entry);
  set(PJRT_DeviceDescription_Attributes, description_attributes_entry);
  set(PJRT_TopologyDescription_Create, topology_create_entry);
  set(PJRT_TopologyDescription_Deserialize, topology_deserialize_entry);
  set(PJRT_TopologyDescription_Destroy, topology_destroy);
  set(PJRT_TopologyDescription_PlatformName, some_text_entry);
  set(PJRT_TopologyDescription_PlatformVersion, some_text_entry);
  set(PJRT_TopologyDescription_GetDeviceDescriptions, client_devices_entry);
  set(PJRT_TopologyDescription_Attributes, topology_attributes_entry);
  set(PJRT_TopologyDescription_Serialize, serialize_entry);
  set(PJRT_Compile, compile_entry);
  set(PJRT_Executable_Destroy, executable_destroy);
  set(PJRT_Executable_Name, some_text_entry);
  set(PJRT_Executable_NumReplicas, count_two_entry);
  set(PJRT_Executable_NumPartitions, count_two_entry);
  set(PJRT_Executable_NumOutputs, count_two_entry);
  set(PJRT_Executable_SizeOfGeneratedCodeInBytes, count_two_entry);
  set(PJRT_Executable_OutputElementTypes, output_types_entry);
  set(PJRT_Executable_OutputDimensions, output_dims_entry);
  set(PJRT_Executable_GetCompiledMemoryStats, executable_memory_entry);
  set(PJRT_Executable_GetCostAnalysis, cost_analysis_entry);
  set(PJRT_Executable_OptimizedProgram, optimized_program_entry);
  set(PJRT_Executable_Fingerprint, some_text_entry);
  set(PJRT_Executable_Serialize, serialize_entry);
  set(PJRT_Executable_DeserializeAndLoad, deserialize_and_load_entry);
  set(PJRT_LoadedExecutable_Destroy, loaded_destroy);
  set(PJRT_LoadedExecutable_GetExecutable, get_executable_entry);
  set(PJRT_LoadedExecutable_AddressableDevices, client_devices_entry);
  set(PJRT_LoadedExecutable_GetDeviceAssignment, serialize_entry);
  set(PJRT_LoadedExecutable_Execute, execute);
  set(PJRT_Buffer_Destroy, buffer_destroy);
  set(PJRT_Buffer_ElementType, buffer_type_entry);
  set(PJRT_Buffer_Dimensions, buffer_dims_entry);
  set(PJRT_Buffer_OnDeviceSizeInBytes, buffer_size_entry);
  set(PJRT_Buffer_Delete, buffer_delete_entry);
  set(PJRT_Buffer_IsDeleted, buffer_is_deleted_entry);
  set(PJRT_Buffer_CopyToDevice, buffer_copy_entry);
  set(PJRT_Buffer_ToHostBuffer, buffer_to_host_entry);
  set(PJRT_Buffer_ReadyEvent, buffer_ready_entry);
  return table;
}

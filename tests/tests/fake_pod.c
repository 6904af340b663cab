// A PJRT plugin for one process of a pod: 8 devices, of which this process addresses 4, listed in no order.
//
// It runs one program: adds 1 to the first argument on every device. Argument structs are read as arrays of words:
// w[0] is the size, w[1] the extension pointer, w[2] the first field. indices.h is written by the test: the place of
// each function in the table, and how many there are.

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "indices.h"

typedef size_t word;
typedef void *(*function)(word *);

enum { DEVICES = 8, OWN = 4 };
typedef struct device { int id, process; } device;
typedef struct error { int code; char message[160]; } error;
typedef struct buffer { int64_t size; device *device; float *values; } buffer;
typedef struct client { int ignores_assignment; int32_t launch_id; } client;
typedef struct executable { client *client; uint8_t assignment[512]; word assignment_size; device *devices[OWN]; word count; } executable;

// The numbering of v3:4x4: process 0 has 0-3 and 8-11. Half of them belong to another process here, so that the
// devices of a process are not neighbours.
static device devices[DEVICES] = {{9, 7}, {2, 7}, {1, 4}, {11, 4}, {8, 7}, {0, 4}, {10, 4}, {3, 7}};
static device *all[DEVICES], *own[OWN];
static int shared_event;
static word table[5 + FUNCTIONS];

static error *fail(int code, const char *message) {
  error *e = calloc(1, sizeof *e);
  e->code = code;
  strncpy(e->message, message, sizeof e->message - 1);
  return e;
}

static void *error_destroy(word *w) { free((void *)w[2]); return NULL; }
static void *error_message(word *w) {
  w[3] = (word)((error *)w[2])->message;
  w[4] = strlen((char *)w[3]);
  return NULL;
}
static void *error_code(word *w) { *(int *)&w[3] = ((error *)w[2])->code; return NULL; }
static void *nothing(word *w) { (void)w; return NULL; }

static void *on_ready(word *w) {
  ((void (*)(void *, void *))w[3])(NULL, (void *)w[4]);
  return NULL;
}
static void *is_ready(word *w) { *(char *)&w[3] = 1; return NULL; }

// Any option makes the plugin ignore device assignments.
static void *client_create(word *w) {
  client *made = calloc(1, sizeof *made);
  made->ignores_assignment = w[3] > 0;
  w[8] = (word)made;
  return NULL;
}
static void *platform(word *w) { w[3] = (word) "pod"; w[4] = 3; return NULL; }
static void *client_destroy(word *w) { free((void *)w[2]); return NULL; }
// The version is the launch id of the last run.
static void *version(word *w) {
  static char text[32];
  w[3] = (word)text;
  w[4] = (word)snprintf(text, sizeof text, "%d", ((client *)w[2])->launch_id);
  return NULL;
}
static void *process_index(word *w) { *(int *)&w[3] = 7; return NULL; }
static void *client_devices(word *w) { w[3] = (word)all; w[4] = DEVICES; return NULL; }
static void *own_devices(word *w) { w[3] = (word)own; w[4] = OWN; return NULL; }
static void *same_object(word *w) { w[3] = w[2]; return NULL; }
static void *device_id(word *w) { *(int *)&w[3] = ((device *)w[2])->id; return NULL; }
static void *device_process(word *w) { *(int *)&w[3] = ((device *)w[2])->process; return NULL; }

// ---- Programs ----

// Finds the field `number` of length-delimited type in a message. Returns its bytes, or NULL.
static const uint8_t *field(const uint8_t *at, word size, uint64_t number, word *length) {
  const uint8_t *end = at + size;
  while (at < end) {
    uint64_t value[2] = {0, 0};
    for (int part = 0; part < 2; part++) {
      for (int shift = 0; at < end; shift += 7) {
        uint8_t byte = *at++;
        value[part] |= (uint64_t)(byte & 127) << shift;
        if (byte < 128) break;
      }
    }
    if ((value[0] & 7) != 2) continue; // The other fields of compile options are integers.
    if (value[0] >> 3 == number) {
      *length = value[1];
      return at;
    }
    at += value[1];
  }
  return NULL;
}

// Reads the assignment, and selects the own devices that occur in it, in the reverse order.
static void *compile(word *w) {
  word length = 0, build_length = 0;
  const uint8_t *build = field((const uint8_t *)w[4], w[5], 3, &build_length);
  const uint8_t *assignment = build ? field(build, build_length, 9, &length) : NULL;
  if (!assignment || length > sizeof ((executable *)0)->assignment) return fail(3, "no device assignment");
  executable *e = calloc(1, sizeof *e);
  e->client = (client *)w[2];
  memcpy(e->assignment, assignment, length);
  e->assignment_size = length;
  for (word at = 0; at + 5 <= length;) {
    // replica_count and computation_count, then messages of 3 bytes with one id below 128 each: 1a 03 0a 01 ID.
    if (assignment[at] != 0x1a) { at += 2; continue; }
    for (int i = 0; i < OWN; i++) {
      if (own[i]->id != assignment[at + 4]) continue;
      memmove(e->devices + 1, e->devices, (OWN - 1) * sizeof *e->devices);
      e->devices[0] = own[i];
      e->count++;
    }
    at += 5;
  }
  // Without regard to the assignment, in a valid message: the last two devices are exchanged.
  if (e->client->ignores_assignment) {
    uint8_t last = e->assignment[length - 1];
    e->assignment[length - 1] = e->assignment[length - 6];
    e->assignment[length - 6] = last;
  }
  w[6] = (word)e;
  return NULL;
}
static void *loaded_destroy(word *w) { free((void *)w[2]); return NULL; }
static void *executable_devices(word *w) {
  executable *e = (executable *)w[2];
  w[3] = (word)e->devices;
  w[4] = e->count;
  return NULL;
}
static void *device_assignment(word *w) {
  executable *e = (executable *)w[2];
  w[3] = (word)e->assignment;
  w[4] = e->assignment_size;
  return NULL;
}
static void *one(word *w) { w[3] = 1; return NULL; }

// ---- Buffers ----

static buffer *make(int64_t size, device *on) {
  buffer *b = calloc(1, sizeof *b);
  b->size = size;
  b->device = on;
  b->values = calloc(size, sizeof *b->values);
  return b;
}
static void *from_host(word *w) {
  int64_t stride = w[8] ? *(int64_t *)w[7] : 4;
  buffer *b = make(*(int64_t *)w[5], (device *)w[10]);
  for (int64_t i = 0; i < b->size; i++) b->values[i] = *(float *)((char *)w[3] + i * stride);
  w[13] = (word)&shared_event;
  w[14] = (word)b;
  return NULL;
}
static void *to_host(word *w) {
  buffer *b = (buffer *)w[2];
  w[6] = (word)&shared_event;
  memcpy((void *)w[4], b->values, w[5]);
  return NULL;
}
static void *buffer_destroy(word *w) {
  free(((buffer *)w[2])->values);
  free((void *)w[2]);
  return NULL;
}
static void *buffer_type(word *w) { *(int *)&w[3] = 11; return NULL; }
static void *buffer_dims(word *w) { w[3] = w[2] + offsetof(buffer, size); w[4] = 1; return NULL; }
static void *is_deleted(word *w) { *(char *)&w[3] = 0; return NULL; }
static void *buffer_ready(word *w) { w[3] = (word)&shared_event; return NULL; }

static void *execute(word *w) {
  executable *e = (executable *)w[2];
  buffer ***inputs = (buffer ***)w[4], ***outputs = (buffer ***)w[7];
  if (w[5] != e->count) return fail(3, "another number of devices");
  e->client->launch_id = *(int32_t *)&((word *)w[3])[6];
  for (word i = 0; i < e->count; i++) {
    buffer *input = inputs[i][0];
    if (input->device != e->devices[i]) return fail(3, "an argument is on another device");
    outputs[i][0] = make(input->size, input->device);
    for (int64_t k = 0; k < input->size; k++) outputs[i][0]->values[k] = input->values[k] + 1;
    ((void **)w[8])[i] = &shared_event;
  }
  return NULL;
}

static void set(int index, function f) { table[5 + index] = (word)f; }

void *GetPjrtApi(void) {
  for (int i = 0, k = 0; i < DEVICES; i++) {
    all[i] = &devices[i];
    if (devices[i].process == 7) own[k++] = &devices[i];
  }
  table[0] = sizeof table;
  table[2] = 24;
  ((int *)&table[4])[1] = 90;
  set(PJRT_Error_Destroy, error_destroy);
  set(PJRT_Error_Message, error_message);
  set(PJRT_Error_GetCode, error_code);
  set(PJRT_Plugin_Initialize, nothing);
  set(PJRT_Event_Destroy, nothing);
  set(PJRT_Event_IsReady, is_ready);
  set(PJRT_Event_Await, nothing);
  set(PJRT_Event_OnReady, on_ready);
  set(PJRT_Client_Create, client_create);
  set(PJRT_Client_Destroy, client_destroy);
  set(PJRT_Client_PlatformName, platform);
  set(PJRT_Client_PlatformVersion, version);
  set(PJRT_Client_ProcessIndex, process_index);
  set(PJRT_Client_Devices, client_devices);
  set(PJRT_Client_AddressableDevices, own_devices);
  set(PJRT_Client_Compile, compile);
  set(PJRT_Client_BufferFromHostBuffer, from_host);
  set(PJRT_Device_GetDescription, same_object);
  set(PJRT_DeviceDescription_Id, device_id);
  set(PJRT_DeviceDescription_ProcessIndex, device_process);
  set(PJRT_DeviceDescription_Kind, platform);
  set(PJRT_DeviceDescription_ToString, platform);
  set(PJRT_Executable_Destroy, nothing);
  set(PJRT_Executable_Name, platform);
  set(PJRT_Executable_NumOutputs, one);
  set(PJRT_LoadedExecutable_Destroy, loaded_destroy);
  set(PJRT_LoadedExecutable_GetExecutable, same_object);
  set(PJRT_LoadedExecutable_AddressableDevices, executable_devices);
  set(PJRT_LoadedExecutable_GetDeviceAssignment, device_assignment);
  set(PJRT_LoadedExecutable_Execute, execute);
  set(PJRT_Buffer_Destroy, buffer_destroy);
  set(PJRT_Buffer_ElementType, buffer_type);
  set(PJRT_Buffer_Dimensions, buffer_dims);
  set(PJRT_Buffer_IsDeleted, is_deleted);
  set(PJRT_Buffer_ToHostBuffer, to_host);
  set(PJRT_Buffer_ReadyEvent, buffer_ready);
  return table;
}

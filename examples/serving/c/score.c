/* Scores samples with an exported model through TensorFlow's C API, without Python, Keras or a server.
 *
 *     score [options] MODEL_DIRECTORY < samples.txt
 *
 * MODEL_DIRECTORY is a version directory that keras_rafm.export wrote, such as saved_models/frappe/1. Each line of the input
 * is a sample: feature ids with blanks between them, or id:value for a value other than 1. The first line of the output
 * names the outputs of the signature. Each further line holds the outputs for one sample, in that order.
 *
 *     --signature NAME   the signature to call; its inputs must be `ids` and perhaps `values` (default: serving_default)
 *     --batch N          number of samples per request (default: 256)
 *     --repeat N         send all requests N times, and report their latency on stderr
 *     --threads N        number of threads within and between operations (default: TensorFlow's choice)
 *
 * Exit status: 0; 1 if TensorFlow refuses the model or a request; 2 for wrong arguments or input.
 */
#define _POSIX_C_SOURCE 200809L
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <tensorflow/c/c_api.h>

enum { MAX_TENSORS = 16, MAX_NAME = 256, PADDING_ID = -1 };

static void fail(int status, const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  fputs("score: ", stderr);
  vfprintf(stderr, format, arguments);
  fputc('\n', stderr);
  va_end(arguments);
  exit(status);
}

static void *allocate(void *memory, size_t size) {
  memory = realloc(memory, size ? size : 1);
  if (memory == NULL) fail(1, "out of memory");
  return memory;
}

/* ---- Signatures: the needed fields of tensorflow.MetaGraphDef, read from its wire format. ---- */

typedef struct {
  const uint8_t *at, *end;
} Message;

typedef struct {
  unsigned number; /* number of the field; 0 at the end of the message */
  uint64_t varint;
  Message bytes;
} Field;

static uint64_t read_varint(Message *message) {
  uint64_t value = 0;
  for (int shift = 0; message->at < message->end && shift < 64; shift += 7) {
    uint8_t byte = *message->at++;
    value |= (uint64_t)(byte & 0x7f) << shift;
    if (!(byte & 0x80)) return value;
  }
  fail(1, "the MetaGraphDef of the model is damaged");
  return 0;
}

static Field next_field(Message *message) {
  Field field = {0, 0, {NULL, NULL}};
  if (message->at >= message->end) return field;
  uint64_t key = read_varint(message), size = 0;
  switch (key & 7) {
    case 0: field.varint = read_varint(message); break;
    case 1: size = 8; break;
    case 2: size = read_varint(message); break;
    case 5: size = 4; break;
    default: fail(1, "the MetaGraphDef of the model is damaged");
  }
  if (size > (uint64_t)(message->end - message->at)) fail(1, "the MetaGraphDef of the model is damaged");
  field.bytes.at = message->at;
  field.bytes.end = message->at += size;
  field.number = (unsigned)(key >> 3);
  return field;
}

/* Copies the key of an entry of a map<string, message> to `key`, and returns its value. */
static Message map_entry(Message entry, char key[MAX_NAME]) {
  Message value = {NULL, NULL};
  key[0] = '\0';
  for (Field field; (field = next_field(&entry)).number;) {
    if (field.number == 1) {
      size_t size = (size_t)(field.bytes.end - field.bytes.at);
      if (size >= MAX_NAME) fail(1, "a name in the model is too long");
      memcpy(key, field.bytes.at, size);
      key[size] = '\0';
    } else if (field.number == 2) {
      value = field.bytes;
    }
  }
  return value;
}

typedef struct {
  char name[MAX_NAME];
  TF_Output output;
  TF_DataType dtype;
} Tensor;

typedef struct {
  Tensor inputs[MAX_TENSORS], outputs[MAX_TENSORS];
  int num_inputs, num_outputs;
} Signature;

/* Reads a tensorflow.TensorInfo, which holds "operation:index" and a dtype. */
static void add_tensor(Tensor *tensors, int *count, Message entry, TF_Graph *graph) {
  if (*count == MAX_TENSORS) fail(1, "the signature has more than %d inputs or outputs", MAX_TENSORS);
  Tensor *tensor = &tensors[(*count)++];
  char output[MAX_NAME] = "";
  Message info = map_entry(entry, tensor->name);
  for (Field field; (field = next_field(&info)).number;) {
    if (field.number == 1) {
      size_t size = (size_t)(field.bytes.end - field.bytes.at);
      if (size >= MAX_NAME) fail(1, "a name in the model is too long");
      memcpy(output, field.bytes.at, size);
      output[size] = '\0';
    } else if (field.number == 2) {
      tensor->dtype = (TF_DataType)field.varint;
    }
  }
  char *colon = strrchr(output, ':');
  if (colon != NULL) *colon = '\0';
  tensor->output.oper = TF_GraphOperationByName(graph, output);
  tensor->output.index = colon != NULL ? atoi(colon + 1) : 0;
  if (tensor->output.oper == NULL) fail(1, "the model has no operation '%s'", output);
}

static int by_name(const void *left, const void *right) {
  return strcmp(((const Tensor *)left)->name, ((const Tensor *)right)->name);
}

static Signature find_signature(const TF_Buffer *meta_graph, TF_Graph *graph, const char *wanted) {
  Signature result;
  memset(&result, 0, sizeof result);
  Message message = {meta_graph->data, (const uint8_t *)meta_graph->data + meta_graph->length};
  for (Field field; (field = next_field(&message)).number;) {
    char name[MAX_NAME];
    if (field.number != 5) continue; /* MetaGraphDef.signature_def */
    Message signature = map_entry(field.bytes, name);
    if (strcmp(name, wanted) != 0) continue;
    for (Field entry; (entry = next_field(&signature)).number;) {
      if (entry.number == 1) add_tensor(result.inputs, &result.num_inputs, entry.bytes, graph);
      if (entry.number == 2) add_tensor(result.outputs, &result.num_outputs, entry.bytes, graph);
    }
    qsort(result.outputs, (size_t)result.num_outputs, sizeof(Tensor), by_name);
    return result;
  }
  fail(1, "the model has no signature '%s'", wanted);
  return result;
}

/* ---- Samples: rows of ids and values. ---- */

typedef struct {
  int64_t *ids;
  float *values;
  size_t *ends; /* end of each row among the entries */
  size_t num_entries, num_rows;
  int has_values;
} Samples;

static Samples read_samples(FILE *file) {
  Samples samples = {NULL, NULL, NULL, 0, 0, 0};
  size_t entries = 0, rows = 0, size = 0;
  char *line = NULL;
  while (getline(&line, &size, file) != -1) {
    char *at = line;
    for (at += strspn(at, " \t\r\n"); *at != '\0'; at += strspn(at, " \t\r\n")) {
      char *end;
      float value = 1;
      errno = 0;
      int64_t id = strtoll(at, &end, 10);
      int is_number = end != at && errno == 0;
      if (is_number && *end == ':') {
        at = end + 1;
        value = strtof(at, &end);
        is_number = end != at && strchr(" \t\r\n", *at) == NULL; /* strtof would skip blanks */
        samples.has_values = 1;
      }
      if (!is_number || strchr(" \t\r\n", *end) == NULL)
        fail(2, "line %zu: expected id or id:value, received '%.40s'", samples.num_rows + 1, at);
      at = end;
      if (samples.num_entries == entries) {
        entries = 2 * entries + 64;
        samples.ids = allocate(samples.ids, entries * sizeof *samples.ids);
        samples.values = allocate(samples.values, entries * sizeof *samples.values);
      }
      samples.ids[samples.num_entries] = id;
      samples.values[samples.num_entries++] = value;
    }
    if (samples.num_rows == rows) {
      rows = 2 * rows + 64;
      samples.ends = allocate(samples.ends, rows * sizeof *samples.ends);
    }
    samples.ends[samples.num_rows++] = samples.num_entries;
  }
  free(line);
  return samples;
}

static size_t start_of(const Samples *samples, size_t row) { return row == 0 ? 0 : samples->ends[row - 1]; }

/* Returns a tensor [rows, width] of the rows from `first` on, with padding at the end of shorter rows. */
static TF_Tensor *tensor_of(const Samples *samples, const Tensor *input, size_t first, size_t rows, size_t width) {
  int is_ids = strcmp(input->name, "ids") == 0;
  if (!is_ids && strcmp(input->name, "values") != 0) fail(1, "the inputs of the signature must be 'ids' and 'values', received '%s'", input->name);
  if (is_ids ? input->dtype != TF_INT32 && input->dtype != TF_INT64 : input->dtype != TF_FLOAT)
    fail(1, "the input '%s' has the unsupported dtype %d", input->name, (int)input->dtype);
  int64_t shape[2] = {(int64_t)rows, (int64_t)width};
  TF_Tensor *tensor = TF_AllocateTensor(input->dtype, shape, 2, rows * width * TF_DataTypeSize(input->dtype));
  void *data = TF_TensorData(tensor);
  for (size_t row = 0; row < rows; row++) {
    size_t start = start_of(samples, first + row), end = samples->ends[first + row];
    for (size_t column = 0; column < width; column++) {
      size_t to = row * width + column, from = start + column;
      int is_present = from < end;
      if (!is_ids) {
        ((float *)data)[to] = is_present ? samples->values[from] : 0;
      } else if (input->dtype == TF_INT64) {
        ((int64_t *)data)[to] = is_present ? samples->ids[from] : PADDING_ID;
      } else {
        /* Ids that int32 can't hold are unknown, and padding has the same effect. */
        int fits = is_present && samples->ids[from] >= INT32_MIN && samples->ids[from] <= INT32_MAX;
        ((int32_t *)data)[to] = fits ? (int32_t)samples->ids[from] : PADDING_ID;
      }
    }
  }
  return tensor;
}

/* ---- Requests. ---- */

static void check(const TF_Status *status, const char *what) {
  if (TF_GetCode(status) != TF_OK) fail(1, "%s: %s", what, TF_Message(status));
}

static void print_row(const Signature *signature, TF_Tensor *const *results, size_t row, size_t rows) {
  for (int k = 0; k < signature->num_outputs; k++) {
    const void *data = TF_TensorData(results[k]);
    size_t columns = (size_t)TF_TensorElementCount(results[k]) / rows;
    for (size_t column = 0; column < columns; column++) {
      size_t at = row * columns + column;
      if (k + column > 0) putchar(' ');
      switch (TF_TensorType(results[k])) {
        case TF_FLOAT: printf("%.9g", (double)((const float *)data)[at]); break;
        case TF_DOUBLE: printf("%.17g", ((const double *)data)[at]); break;
        case TF_INT32: printf("%" PRId32, ((const int32_t *)data)[at]); break;
        case TF_INT64: printf("%" PRId64, ((const int64_t *)data)[at]); break;
        default: fail(1, "the output '%s' has the unsupported dtype %d", signature->outputs[k].name, (int)TF_TensorType(results[k]));
      }
    }
  }
  putchar('\n');
}

static int by_size(const void *left, const void *right) {
  double a = *(const double *)left, b = *(const double *)right;
  return (a > b) - (a < b);
}

static double seconds(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static long number_of(const char *option, const char *text) {
  char *end;
  long number = text == NULL ? 0 : strtol(text, &end, 10);
  if (number < 1 || number > 1000000000 || *end != '\0') fail(2, "%s must be a number of at least 1", option);
  return number;
}

int main(int num_arguments, char **arguments) {
  const char *directory = NULL, *wanted = "serving_default";
  size_t batch = 256, repeat = 1, threads = 0;
  for (int index = 1; index < num_arguments; index++) {
    const char *option = arguments[index], *value = index + 1 < num_arguments ? arguments[index + 1] : NULL;
    if (strcmp(option, "--signature") == 0 && value != NULL) wanted = arguments[++index];
    else if (strcmp(option, "--batch") == 0) batch = (size_t)number_of(option, value), index++;
    else if (strcmp(option, "--repeat") == 0) repeat = (size_t)number_of(option, value), index++;
    else if (strcmp(option, "--threads") == 0) threads = (size_t)number_of(option, value), index++;
    else if (option[0] != '-' && directory == NULL) directory = option;
    else fail(2, "unknown argument '%s'; usage: score [options] MODEL_DIRECTORY < samples.txt", option);
  }
  if (directory == NULL) fail(2, "usage: score [options] MODEL_DIRECTORY < samples.txt");

  TF_Status *status = TF_NewStatus();
  TF_Graph *graph = TF_NewGraph();
  TF_SessionOptions *options = TF_NewSessionOptions();
  if (threads > 0) {
    /* tensorflow.ConfigProto: fields 2 and 5, the threads within and between operations, as varints. */
    uint8_t config[12];
    size_t size = 0;
    for (int field = 2; field <= 5; field += 3) {
      config[size++] = (uint8_t)(field << 3);
      size_t rest = threads > 127 ? 127 : threads;
      config[size++] = (uint8_t)rest;
    }
    TF_SetConfig(options, config, size, status);
    check(status, "--threads");
  }
  const char *tags[] = {"serve"};
  TF_Buffer *meta_graph = TF_NewBuffer();
  TF_Session *session = TF_LoadSessionFromSavedModel(options, NULL, directory, tags, 1, graph, meta_graph, status);
  check(status, directory);
  Signature signature = find_signature(meta_graph, graph, wanted);

  Samples samples = read_samples(stdin);
  int takes_values = 0;
  for (int k = 0; k < signature.num_inputs; k++) takes_values |= strcmp(signature.inputs[k].name, "values") == 0;
  if (samples.has_values && !takes_values) fail(2, "the input must have no values: the model takes none");
  /* Rows are padded to the width that the model takes, or to the longest row if it takes any width. */
  int64_t shape[2] = {-1, -1};
  size_t model_width = 0;
  for (int k = 0; k < signature.num_inputs; k++) {
    TF_GraphGetTensorShape(graph, signature.inputs[k].output, shape, 2, status);
    if (TF_GetCode(status) == TF_OK && shape[1] > 0) model_width = (size_t)shape[1];
  }

  size_t num_requests = (samples.num_rows + batch - 1) / batch, num_latencies = 0;
  double *latencies = allocate(NULL, num_requests * repeat * sizeof *latencies);
  for (int k = 0; k < signature.num_outputs; k++) printf("%s%s", k > 0 ? " " : "", signature.outputs[k].name);
  putchar('\n');
  TF_Output feeds[MAX_TENSORS], fetches[MAX_TENSORS];
  for (int k = 0; k < signature.num_inputs; k++) feeds[k] = signature.inputs[k].output;
  for (int k = 0; k < signature.num_outputs; k++) fetches[k] = signature.outputs[k].output;
  for (size_t round = 0; round < repeat; round++) {
    for (size_t first = 0; first < samples.num_rows; first += batch) {
      size_t rows = samples.num_rows - first < batch ? samples.num_rows - first : batch, width = model_width;
      for (size_t row = first; row < first + rows; row++) {
        size_t length = samples.ends[row] - start_of(&samples, row);
        if (model_width > 0 && length > model_width)
          fail(2, "line %zu: the model takes %zu ids, received %zu", row + 1, model_width, length);
        if (length > width) width = length;
      }
      TF_Tensor *inputs[MAX_TENSORS], *results[MAX_TENSORS];
      double start = seconds();
      for (int k = 0; k < signature.num_inputs; k++)
        inputs[k] = tensor_of(&samples, &signature.inputs[k], first, rows, width);
      TF_SessionRun(session, NULL, feeds, inputs, signature.num_inputs, fetches, results, signature.num_outputs, NULL, 0,
                    NULL, status);
      check(status, "the request was refused");
      latencies[num_latencies++] = seconds() - start;
      for (size_t row = 0; round == 0 && row < rows; row++) print_row(&signature, results, row, rows);
      for (int k = 0; k < signature.num_inputs; k++) TF_DeleteTensor(inputs[k]);
      for (int k = 0; k < signature.num_outputs; k++) TF_DeleteTensor(results[k]);
    }
  }
  if (repeat > 1 && num_latencies > 0) {
    /* The first round is left out, because it is slower. */
    size_t from = num_requests, counted = num_latencies - from;
    double total = 0;
    for (size_t k = from; k < num_latencies; k++) total += latencies[k];
    qsort(latencies + from, counted, sizeof *latencies, by_size);
    fprintf(stderr, "requests %zu p50_us %.1f p99_us %.1f samples_per_second %.0f\n", counted,
            1e6 * latencies[from + counted / 2], 1e6 * latencies[from + counted * 99 / 100],
            (double)(samples.num_rows * (repeat - 1)) / total);
  }

  free(latencies);
  free(samples.ids);
  free(samples.values);
  free(samples.ends);
  TF_CloseSession(session, status);
  TF_DeleteSession(session, status);
  TF_DeleteBuffer(meta_graph);
  TF_DeleteSessionOptions(options);
  TF_DeleteGraph(graph);
  TF_DeleteStatus(status);
  return 0;
}

/* A ClickHouse server out of libchdb.so: its entry point runs `clickhouse local`, which can listen.
   It ends when its standard input does, so it never outlives who started it, however that ends.

   cc -O2 -pthread server.c -o server -ldl; ./server libchdb.so ARGUMENTS-OF-CLICKHOUSE-LOCAL */
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <unistd.h>

static void *until_end_of_input(void *unused) {
  char byte;
  while (read(0, &byte, 1) > 0) {
  }
  _exit(0);
  return unused;
}

int main(int argc, char **argv) {
  if (argc < 2) {
    fprintf(stderr, "usage: %s libchdb.so [arguments]\n", argv[0]);
    return 2;
  }
  void *library = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL);
  if (!library) {
    fprintf(stderr, "%s\n", dlerror());
    return 1;
  }
  void *(*run)(int, char **) = (void *(*)(int, char **))dlsym(library, "chdb_query_cmdline");
  const char *(*error)(void *) = (const char *(*)(void *))dlsym(library, "chdb_result_error");
  if (!run || !error) {
    fprintf(stderr, "%s has not the functions of libchdb\n", argv[1]);
    return 1;
  }
  pthread_t thread;
  if (pthread_create(&thread, NULL, until_end_of_input, NULL)) {
    fprintf(stderr, "no thread can be made\n");
    return 1;
  }
  argv[1] = "clickhouse";
  void *result = run(argc - 1, argv + 1);
  const char *text = result ? error(result) : NULL;
  if (text && *text) {
    fprintf(stderr, "%s\n", text);
    return 1;
  }
  return 0;
}

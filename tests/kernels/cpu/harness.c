/* Runs kernels in a process of its own, on behalf of remote_library.py: the kernels of another machine under an emulator,
 * or those of this one with every region of memory ending at a page that may not be touched.
 *
 * harness LIBRARY. Requests come on standard input and answers go to standard output, in 64-bit words and plain bytes.
 *   name[64], what: FIND     -> 1 if there is penstock_<name>, else 0
 *   name[64], what: CALL     -> what the function without parameters returns
 *   name[64], what: LAUNCH, tokens, sequences, threads, bytes of arguments, pointers, regions,
 *     the arguments; for each pointer its offset in them, its region, the offset there; for each region bytes and content
 *     -> the content of each region
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "team.h"

enum { FIND, CALL, LAUNCH, NAME = 64 };

struct region {
    char *mapping, *content;
    size_t mapped;
    int64_t bytes;
};

static void take(void *to, size_t bytes)
{
    if (bytes && fread(to, 1, bytes, stdin) != bytes)
        exit(0);
}

static int64_t word(void)
{
    int64_t value;
    take(&value, sizeof value);
    return value;
}

static void give(const void *from, size_t bytes)
{
    if (bytes && fwrite(from, 1, bytes, stdout) != bytes)
        exit(1);
}

static void answer(int64_t value)
{
    give(&value, sizeof value);
}

/* Memory that ends where its content ends. */
static struct region map(int64_t bytes)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE), used = ((size_t)bytes + page - 1) / page * page;
    struct region region = {.mapped = used + 2 * page, .bytes = bytes};
    region.mapping = mmap(NULL, region.mapped, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (region.mapping == MAP_FAILED || (used && mprotect(region.mapping + page, used, PROT_READ | PROT_WRITE))) {
        perror("harness: memory");
        exit(1);
    }
    region.content = region.mapping + page + used - bytes;
    return region;
}

static void launch(kernel *run, void (*program)(const struct launch *, int32_t, const struct step *, int32_t))
{
    struct step step = {.tokens = (int32_t)word()};
    step.sequences = (int32_t)word();
    int32_t threads = (int32_t)word();
    int64_t bytes = word(), pointers = word(), count = word();
    char *args = malloc((size_t)bytes);
    take(args, (size_t)bytes);
    int64_t(*pointer)[3] = malloc((size_t)pointers * sizeof *pointer);
    take(pointer, (size_t)pointers * sizeof *pointer);
    struct region *regions = malloc((size_t)count * sizeof *regions);
    for (int64_t i = 0; i < count; i++) {
        regions[i] = map(word());
        take(regions[i].content, (size_t)regions[i].bytes);
    }
    for (int64_t i = 0; i < pointers; i++) {
        char *address = regions[pointer[i][1]].content + pointer[i][2];
        memcpy(args + pointer[i][0], &address, sizeof address);
    }
    struct launch one = {.run = run, .args = args};
    program(&one, 1, &step, threads);
    for (int64_t i = 0; i < count; i++) {
        give(regions[i].content, (size_t)regions[i].bytes);
        munmap(regions[i].mapping, regions[i].mapped);
    }
    free(regions);
    free(pointer);
    free(args);
}

int main(int argc, char **argv)
{
    void *library = argc == 2 ? dlopen(argv[1], RTLD_NOW) : NULL;
    if (!library) {
        fprintf(stderr, "harness: %s\n", argc == 2 ? dlerror() : "one library is wanted");
        return 1;
    }
    for (;;) {
        char name[NAME + 1] = {0}, symbol[NAME + 16];
        take(name, NAME);
        snprintf(symbol, sizeof symbol, "penstock_%s", name);
        void *found = dlsym(library, symbol);
        int64_t what = word();
        if (what == FIND)
            answer(found != NULL);
        else if (what == CALL)
            answer(((int32_t(*)(void))found)());
        else
            launch((kernel *)found, dlsym(library, "penstock_run"));
        fflush(stdout);
    }
}

// What faultvfs.go calls; shim.c says what it does.
#include <stdint.h>

int fv_register(void);
void fv_reset(const char *dir);
void fv_arm(int at, int count, int mode);
int fv_ops(void);
int fv_hits(void);
void fv_cut(int on);
void fv_slow(int microseconds);
int fv_files(void);
const char *fv_path(int i);
int fv_survivors(int i, int percent, unsigned seed, char **data, int64_t *size);

/* The multiplications a second that one core can do with the instruction that the kernels of this name multiply with. */
#ifndef DN_PEAK_H
#define DN_PEAK_H

double dn_peak_gmacs(const char *kernels); /* 1e9 a second; 0 when unknown */

#endif

/* SPDX-License-Identifier: MIT
 * belfry: the program. The only room that may exit.
 */
#include "base/base.h"
#include <stdio.h>

int main(int argc, char **argv)
{
	fprintf(stderr, "belfry: no command is built yet\n");
	return 2;
}

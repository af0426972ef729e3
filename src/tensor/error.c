/* The thread's last error and last warning. */
#include "core.h"

#include <stdio.h>
#include <string.h>

#define MESSAGE_BYTES 2048

static _Thread_local ek_status last_status = EK_OK;
static _Thread_local uint64_t error_count;
static _Thread_local char last_error[MESSAGE_BYTES];
static _Thread_local char last_warning[MESSAGE_BYTES];

const char *ek_status_name(ek_status status)
{
    switch (status) {
    case EK_OK: return "EK_OK";
    case EK_DONE: return "EK_DONE";
    case EK_ERR_ARGUMENT: return "EK_ERR_ARGUMENT";
    case EK_ERR_SHAPE: return "EK_ERR_SHAPE";
    case EK_ERR_DTYPE: return "EK_ERR_DTYPE";
    case EK_ERR_STATE: return "EK_ERR_STATE";
    case EK_ERR_MEMORY: return "EK_ERR_MEMORY";
    case EK_ERR_IO: return "EK_ERR_IO";
    case EK_ERR_FORMAT: return "EK_ERR_FORMAT";
    }
    return "unknown status";
}

const char *ek_version(void)
{
    return EK_VERSION_STRING;
}

const char *ek_last_error(void)
{
    return last_error;
}

ek_status ek_last_status(void)
{
    return last_status;
}

uint64_t ek_error_count(void)
{
    return error_count;
}

void ek_clear_error(void)
{
    last_status = EK_OK;
    last_error[0] = '\0';
}

const char *ek_last_warning(void)
{
    return last_warning;
}

void ek_clear_warning(void)
{
    last_warning[0] = '\0';
}

ek_status ek_fail_v(ek_status status, const char *format, va_list arguments)
{
    char message[MESSAGE_BYTES]; /* an argument may be ek_last_error() itself */
    vsnprintf(message, sizeof message, format ? format : "", arguments);
    memcpy(last_error, message, sizeof message);
    last_status = status;
    error_count++;
    return status;
}

ek_status ek_fail(ek_status status, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    ek_fail_v(status, format, arguments);
    va_end(arguments);
    return status;
}

ek_status ek_fail_null(ek_status status, const char *who, const char *what)
{
    return ek_fail(status, "%s: the %s is NULL%s%s", who, what, *ek_last_error() ? "; the last error was: " : "",
                   ek_last_error());
}

void ek_warn(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(last_warning, sizeof last_warning, format, arguments);
    va_end(arguments);
}

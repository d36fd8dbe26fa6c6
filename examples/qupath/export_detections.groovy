/*
 * Writes the detections and cells of the open image as GeoJSON: nuclei that StarDist, InstanSeg or
 * QuPath's cell detection have found, with their ids and classes. LymphInfer's own are left out.
 *
 * Change: nothing, if the file may lie in PROJECT/nuclei: one file an image, called like its slide.
 * Runs in: the script editor (Run, and Run for project), the menu of install_menu.groovy, and
 *   QuPath script -p PROJECT.qpproj export_detections.groovy
 * For QuPath 0.5 to 0.7. See README.md.
 */
import qupath.fx.dialogs.Dialogs
import qupath.lib.common.GeneralTools
import qupath.lib.projects.Projects

import static qupath.lib.gui.scripting.QPEx.*

// ---- Settings ------------------------------------------------------------------------------

// The file to write. null: PROJECT/nuclei/SLIDE.geojson, beside the slide without a project
String file = null

// Only those that are selected.
boolean onlySelection = false

// Their measurements too: a file several times as large.
boolean measurements = false

// ---- Work ----------------------------------------------------------------------------------

def imageData = getCurrentImageData()
if (imageData == null) {
    refuse('Open an image first.')
    return
}
// Tiles are detections too, but nothing that was found.
def detections = (onlySelection ? getSelectedObjects() : getDetectionObjects()).findAll {
    it.isDetection() && !it.isTile() && it.hasROI() && it.getROI().isArea() && !isOfLymphInfer(it)
}
if (!detections) {
    refuse('No detection is here that LymphInfer has not brought itself. Run a cell detection first.')
    return
}
file = file ?: defaultFile(imageData, 'nuclei')
if (file == null) {
    refuse('The open image is no file of this computer: set `file` at the top of this script.')
    return
}
new File(file).getAbsoluteFile().getParentFile().mkdirs()
def without = measurements ? [] : ['EXCLUDE_MEASUREMENTS']
exportObjectsToGeoJson(detections, file, 'FEATURE_COLLECTION', *without)
println "${detections.size()} nuclei in ${file}, ${detections.count { it.isCell() }} of them cells with a nucleus of their own"

/** Whether an earlier import has brought a nucleus; StarDist's own have no marker. */
boolean isOfLymphInfer(nucleus) {
    def values = nucleus.getMeasurementList()
    return !Double.isNaN(values.get('Detection probability')) && !Double.isNaN(values.get('CD45 probability'))
}

/** PROJECT/FOLDER/SLIDE.geojson, or FOLDER/SLIDE.geojson beside the slide where there is no project. */
String defaultFile(imageData, String folder) {
    def server = imageData.getServer()
    def slide = server.getURIs().collect { GeneralTools.toPath(it) }.find { it != null }?.toFile()
    if (getProject() == null && slide == null)
        return null
    // PROJECT_BASE_DIR is a text that only an open project can resolve.
    def base = getProject() == null ? slide.getParentFile() : Projects.getBaseDirectory(getProject())
    def name = slide == null ? server.getMetadata().getName() : slide.getName()
    return new File(new File(base, folder), name + '.geojson').getPath()
}

/** Say why nothing was done: in a window, or, where there is none, as the error that ends the script. */
void refuse(CharSequence words) {
    if (getQuPath() == null)
        throw new RuntimeException(words.toString())
    println words
    Dialogs.showErrorMessage('LymphInfer', words.toString())
}
